# RetinaNet, SCHEMEformer-S12 (44-e8), COCO, 12 epochs, 16 images per iteration.
_base_ = [
    '_base_/models/retinanet_scheme.py', '_base_/datasets/coco_detection.py',
    '_base_/schedules/detection_1x.py'
]
