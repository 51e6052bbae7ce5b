# Mask R-CNN, SCHEMEformer-M36 (44-e8), same recipe as the S12.
_base_ = 'mask_rcnn_scheme_s_coco.py'
model = dict(backbone=dict(arch='m36'), neck=dict(in_channels=[96, 192, 384, 768]))
