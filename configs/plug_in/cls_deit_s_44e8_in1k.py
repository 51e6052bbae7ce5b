# Classifier, DeiT-S (44-e8), ImageNet-1K.
_base_ = '_base_/cls.py'
model = dict(
    backbone=dict(
        backbone=dict(
            type='VisionTransformer',
            arch='deit-small',
            img_size=224,
            patch_size=16,
            drop_path_rate=0.1)),
    neck=None,
    head=dict(type='VisionTransformerClsHead', in_channels=384))
