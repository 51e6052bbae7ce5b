# Classifier, PoolFormer-S12 (44-e8), ImageNet-1K.
_base_ = '_base_/cls.py'
model = dict(
    backbone=dict(
        backbone=dict(
            type='PoolFormer',
            arch='s12',
            drop_path_rate=0.1,
            frozen_stages=-1,  # the default freezes the stem
            init_cfg=[
                dict(type='TruncNormal', layer=['Conv2d', 'Linear'], std=.02, bias=0.),
                dict(type='Constant', layer=['GroupNorm'], val=1., bias=0.)
            ])),
    head=dict(in_channels=512))
