# 44-e8 without CCA, initial weights by the number of inputs.
_base_ = '../../_base_/imagenette_64.py'
model = dict(backbone=dict(cca=False, init_std=None))
