# 44-e8 with CCA and the schedule, larger initial weights.
_base_ = '../../_base_/imagenette_64.py'
model = dict(backbone=dict(init_std=0.06))
