# 44-e8 with a dense guide, channels dealt out to the groups in every other block.
_base_ = '44e8_dense.py'
model = dict(backbone=dict(interleave=True))
