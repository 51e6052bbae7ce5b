# 44-e8 with a dense guide over the first half.
_base_ = '../../_base_/imagenette_64.py'
model = dict(backbone=dict(guide='dense', init_std=None))
