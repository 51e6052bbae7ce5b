# 44-e8 with a dense guide over the first half, in a share of the steps.
_base_ = '../../_base_/imagenette_128.py'
model = dict(backbone=dict(guide='dense', sample_guide=True))
