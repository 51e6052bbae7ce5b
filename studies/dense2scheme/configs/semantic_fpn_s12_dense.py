# Semantic FPN on the dense S12 of cls_s12_dense, on road scenes.
_base_ = '../../_base_/semantic_fpn_camvid.py'
model = dict(
    backbone=dict(arch='s12', groups=(1, 1), expansion=4, cca=False),
    neck=dict(in_channels=[64, 128, 320, 512]))
default_hooks = dict(mixing_schedule=None)
study = dict(seeds=(0, 1), after='cls_s12_dense', part='backbone')
