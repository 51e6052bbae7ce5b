# UPerNet, SCHEMEformer-M36 (44-e8), ADE20K.
_base_ = 'upernet_scheme_s_ade20k.py'
model = dict(
    backbone=dict(arch='m36'),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384))
