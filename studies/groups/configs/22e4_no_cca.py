# Two groups at E=4, without CCA: the multiply-adds of 44-e8.
_base_ = '../../_base_/imagenette_64.py'
model = dict(backbone=dict(groups=(2, 2), expansion=4, cca=False, init_std=None))
study = dict(seeds=(0, 1))
