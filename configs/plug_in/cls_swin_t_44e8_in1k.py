# Classifier, Swin-T (44-e8), ImageNet-1K.
_base_ = '_base_/cls.py'
model = dict(
    backbone=dict(
        backbone=dict(type='SwinTransformer', arch='tiny', img_size=224, drop_path_rate=0.2)),
    head=dict(in_channels=768))
