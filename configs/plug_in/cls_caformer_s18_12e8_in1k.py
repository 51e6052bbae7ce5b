# Classifier, CAFormer-S18 (12-e8), ImageNet-1K.
_base_ = 'cls_caformer_s18_44e8_in1k.py'
model = dict(backbone=dict(groups=(1, 2)))
