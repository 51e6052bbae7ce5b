# 44-e8 with CCA and the schedule; while it falls, CCA is computed in a share of the steps.
_base_ = '../../_base_/imagenette_64.py'
model = dict(backbone=dict(sample_guide=True, init_std=None))
