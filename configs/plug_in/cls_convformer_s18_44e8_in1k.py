# Classifier, ConvFormer-S18 (44-e8), ImageNet-1K.
_base_ = '_base_/cls.py'
model = dict(
    backbone=dict(backbone=dict(type='TIMMBackbone', model_name='convformer_s18', drop_path_rate=0.1)),
    head=dict(in_channels=512))
