# 44-e8 without CCA, larger initial weights.
_base_ = '../../_base_/imagenette_64.py'
model = dict(backbone=dict(cca=False, init_std=0.06))
