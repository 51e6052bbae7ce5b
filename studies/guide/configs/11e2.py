# A dense FFN at E=2: the multiply-adds of 44-e8.
_base_ = '../../_base_/imagenette_64.py'
model = dict(backbone=dict(groups=(1, 1), expansion=2, cca=False, init_std=None))
