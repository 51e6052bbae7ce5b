# 44-e8 with CCA and the schedule, initial weights by the number of inputs.
_base_ = '../../_base_/imagenette_64.py'
model = dict(backbone=dict(init_std=None))
