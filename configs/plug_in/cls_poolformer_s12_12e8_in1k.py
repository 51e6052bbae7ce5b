# Classifier, PoolFormer-S12 (12-e8), ImageNet-1K.
_base_ = 'cls_poolformer_s12_44e8_in1k.py'
model = dict(backbone=dict(groups=(1, 2)))
