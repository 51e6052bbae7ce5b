# 44-e8 with a dense guide over the first half, in a share of the steps.
_base_ = '44e8_dense.py'
model = dict(backbone=dict(sample_guide=True))
