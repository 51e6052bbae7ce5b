# The same transformer with 44-e8 by the wrapper.
_base_ = 'vit_dense.py'
model = dict(
    backbone=dict(_delete_=True, type='mmscheme.SCHEMEWrapper', backbone=_base_.model.backbone))
