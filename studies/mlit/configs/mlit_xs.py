# mLiT-XS.
_base_ = '../../_base_/imagenette_36.py'
model = dict(backbone=dict(arch='xs'), head=dict(in_channels=128))
