# SegFormer-B0 (44-e8), ADE20K, SegFormer's recipe: 160k iterations of 16 images.
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
        backbone=dict(
            type='MixVisionTransformer',
            embed_dims=32,
            num_layers=[2, 2, 2, 2],
            num_heads=[1, 2, 5, 8],
            drop_path_rate=0.1)),
    decode_head=dict(
        _delete_=True,
        type='SegformerHead',
        in_channels=[32, 64, 160, 256],
        in_index=[0, 1, 2, 3],
        channels=256,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    auxiliary_head=None)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'decode_head': dict(lr_mult=10.)}))
