# Eight groups at E=16, without CCA: the multiply-adds of 44-e8.
_base_ = '../../_base_/imagenette_64.py'
model = dict(backbone=dict(groups=(8, 8), expansion=16, cca=False, init_std=None))
study = dict(seeds=(0, 1))
