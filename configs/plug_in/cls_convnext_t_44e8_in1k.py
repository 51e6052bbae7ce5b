# Classifier, ConvNeXt-T (44-e8), ImageNet-1K.
_base_ = '_base_/cls.py'
model = dict(
    backbone=dict(
        backbone=dict(
            type='ConvNeXt',
            arch='tiny',
            drop_path_rate=0.1,
            init_cfg=dict(type='TruncNormal', layer=['Conv2d', 'Linear'], std=.02, bias=0.))),
    neck=None,
    head=dict(in_channels=768))
