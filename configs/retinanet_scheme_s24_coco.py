# RetinaNet, SCHEMEformer-S24 (44-e8), same recipe as the S12.
_base_ = 'retinanet_scheme_s_coco.py'
model = dict(backbone=dict(arch='s24'))
