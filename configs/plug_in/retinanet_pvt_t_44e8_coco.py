# RetinaNet, PVT-Tiny (44-e8), COCO, 12 epochs, 16 images per iteration.
_base_ = [
    '../_base_/models/retinanet_scheme.py', '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/detection_1x.py'
]
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmscheme.SCHEMEWrapper',
        groups=(4, 4),
        expansion=8, strict=True,
        backbone=dict(
            type='PyramidVisionTransformer', num_layers=[2, 2, 2, 2], out_indices=(1, 2, 3))))
