# 44-e8 without CCA, initial weights as the authors'.
_base_ = '../../_base_/imagenette_64.py'
model = dict(backbone=dict(cca=False, match_variance=False))
