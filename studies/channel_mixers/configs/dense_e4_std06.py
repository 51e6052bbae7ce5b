# Dense FFN, E=4, larger initial weights.
_base_ = '../../_base_/imagenette_64.py'
model = dict(backbone=dict(groups=(1, 1), expansion=4, cca=False, init_std=0.06))
