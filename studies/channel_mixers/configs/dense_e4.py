# Dense FFN, E=4, as all else with initial weights of deviation 0.02.
_base_ = '../../_base_/imagenette_64.py'
model = dict(backbone=dict(groups=(1, 1), expansion=4, cca=False))
