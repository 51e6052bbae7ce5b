# Mask R-CNN, SCHEMEformer-S36 (44-e8), same recipe as the S12.
_base_ = 'mask_rcnn_scheme_s_coco.py'
model = dict(backbone=dict(arch='s36'))
