# 44-e8 without CCA, twice the learning rate in every layer.
_base_ = '../../_base_/imagenette_64.py'
model = dict(backbone=dict(cca=False, init_std=None))
optim_wrapper = dict(optimizer=dict(lr=2e-3))
