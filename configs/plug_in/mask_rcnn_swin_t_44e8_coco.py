# Mask R-CNN, Swin-T (44-e8), COCO, Swin's recipe: 12 epochs, 16 images per iteration.
_base_ = [
    '../_base_/models/mask_rcnn_scheme.py', '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/detection_1x.py'
]
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmscheme.SCHEMEWrapper',
        groups=(4, 4),
        expansion=8, strict=True,
        backbone=dict(type='SwinTransformer', drop_path_rate=0.2)),
    neck=dict(in_channels=[96, 192, 384, 768]))
optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1)
]
