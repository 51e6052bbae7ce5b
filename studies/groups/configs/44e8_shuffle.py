# 44-e8 with a channel shuffle instead of CCA.
_base_ = '../../_base_/imagenette_64.py'
model = dict(
    backbone=dict(cca=False, init_std=None, act_cfg=dict(type='mmscheme.ShuffledGELU', groups=4)))
study = dict(seeds=(0, 1))
