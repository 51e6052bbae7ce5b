# Semantic FPN, SCHEMEformer-M36 (44-e8), same recipe as the S12.
_base_ = 'semantic_fpn_scheme_s_ade20k.py'
model = dict(backbone=dict(arch='m36'), neck=dict(in_channels=[96, 192, 384, 768]))
