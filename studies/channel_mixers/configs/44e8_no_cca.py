# 44-e8 without CCA.
_base_ = '../../_base_/sizes.py'
model = dict(backbone=dict(cca=False))
