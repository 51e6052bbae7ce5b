# Mask R-CNN, SCHEMEformer-S12 (44-e8), COCO, 12 epochs, 16 images per iteration.
_base_ = [
    '_base_/models/mask_rcnn_scheme.py', '_base_/datasets/coco_instance.py',
    '_base_/schedules/detection_1x.py'
]
optim_wrapper = dict(optimizer=dict(lr=2e-4))
