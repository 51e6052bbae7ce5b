# 44-e8 without CCA.
_base_ = '../../_base_/imagenette_128.py'
model = dict(backbone=dict(cca=False))
