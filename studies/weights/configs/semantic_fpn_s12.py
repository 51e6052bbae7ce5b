# Semantic FPN on the backbone of that classifier, on road scenes; its weights are written.
_base_ = '../../_base_/semantic_fpn_camvid.py'
model = dict(backbone=dict(arch='s12'), neck=dict(in_channels=[64, 128, 320, 512]))
study = dict(seeds=(0, ), after='cls_s12', part='backbone', publish=True)
