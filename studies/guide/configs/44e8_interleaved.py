# 44-e8 without CCA, channels dealt out to the groups in every other block.
_base_ = '../../_base_/imagenette_64.py'
model = dict(backbone=dict(cca=False, interleave=True, init_std=None))
