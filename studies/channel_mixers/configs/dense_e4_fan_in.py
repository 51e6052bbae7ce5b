# Dense FFN, E=4, initial weights by the number of inputs.
_base_ = '../../_base_/imagenette_64.py'
model = dict(backbone=dict(groups=(1, 1), expansion=4, cca=False, init_std=None))
