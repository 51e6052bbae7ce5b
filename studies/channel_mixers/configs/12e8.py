# 12-e8 with CCA and the schedule.
_base_ = '../../_base_/imagenette_64.py'
model = dict(backbone=dict(groups=(1, 2)))
