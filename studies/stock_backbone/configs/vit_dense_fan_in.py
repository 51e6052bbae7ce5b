# The same transformer, dense FFNs by the wrapper, initial weights by the number of inputs.
_base_ = 'vit_dense.py'
model = dict(
    backbone=dict(
        _delete_=True, type='mmscheme.SCHEMEWrapper', backbone=_base_.model.backbone, groups=(1, 1),
        expansion=4, cca=False, init_std=None))
