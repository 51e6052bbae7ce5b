# Dense FFN, E=4, from random weights.
_base_ = '../../_base_/semantic_fpn_camvid.py'
model = dict(backbone=dict(groups=(1, 1), expansion=4, cca=False))
