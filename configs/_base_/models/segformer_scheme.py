# SegFormer's head on SCHEMEformer-S12 in 44-e8: most of the arithmetic is the backbone's.
_base_ = 'upernet_scheme.py'
model = dict(
    backbone=dict(drop_path_rate=0.1),
    decode_head=dict(
        _delete_=True,
        type='SegformerHead',
        in_channels=[64, 128, 320, 512],
        in_index=[0, 1, 2, 3],
        channels=256,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    auxiliary_head=None)
