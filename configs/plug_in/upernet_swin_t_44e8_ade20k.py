# UPerNet, Swin-T (44-e8), ADE20K, Swin's recipe: 160k iterations of 16 images.
_base_ = [
    '../_base_/models/upernet_scheme.py', '../_base_/datasets/ade20k.py',
    '../_base_/schedules/upernet_160k.py'
]
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmscheme.SCHEMEWrapper',
        groups=(4, 4),
        expansion=8, strict=True,
        backbone=dict(type='SwinTransformer', drop_path_rate=0.3)),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384))
