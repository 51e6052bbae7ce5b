# Mask R-CNN, Swin-T (12-e8), COCO.
_base_ = 'mask_rcnn_swin_t_44e8_coco.py'
model = dict(backbone=dict(groups=(1, 2)))
