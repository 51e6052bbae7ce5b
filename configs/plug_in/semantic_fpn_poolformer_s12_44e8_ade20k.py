# Semantic FPN, PoolFormer-S12 (44-e8), ADE20K, PoolFormer's recipe: 40k iterations of 32 images.
_base_ = '../semantic_fpn_scheme_s_ade20k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmscheme.SCHEMEWrapper',
        groups=(4, 4),
        expansion=8, strict=True,
        backbone=dict(
            type='mmpretrain.PoolFormer',
            arch='s12',
            out_indices=(0, 2, 4, 6),
            frozen_stages=-1)))  # the default freezes the stem
