# 44-e8 with CCA and the schedule, initial weights as the authors'.
_base_ = '../../_base_/imagenette_64.py'
model = dict(backbone=dict(match_variance=False))
