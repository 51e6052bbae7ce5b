# Classifier, DeiT-S (12-e8), ImageNet-1K.
_base_ = 'cls_deit_s_44e8_in1k.py'
model = dict(backbone=dict(groups=(1, 2)))
