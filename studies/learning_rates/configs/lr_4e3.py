# 44-e8 without CCA, four times the learning rate in every layer.
_base_ = '../../_base_/imagenette_64.py'
model = dict(backbone=dict(cca=False, init_std=None))
optim_wrapper = dict(optimizer=dict(lr=4e-3))
