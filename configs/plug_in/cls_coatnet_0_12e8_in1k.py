# Classifier, CoAtNet-0 (12-e8), ImageNet-1K.
_base_ = 'cls_coatnet_0_44e8_in1k.py'
model = dict(backbone=dict(groups=(1, 2)))
