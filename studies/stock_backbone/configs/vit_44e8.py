# The same transformer with 44-e8 by the wrapper, initial weights by the number of inputs.
_base_ = 'vit_dense.py'
model = dict(
    backbone=dict(
        _delete_=True, type='mmscheme.SCHEMEWrapper', backbone=_base_.model.backbone,
        init_std=None))
