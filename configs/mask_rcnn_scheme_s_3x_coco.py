# Mask R-CNN, SCHEMEformer-S12 (44-e8), COCO, 36 epochs with the shorter side from 480 to 800.
_base_ = 'mask_rcnn_scheme_s_coco.py'
train_pipeline = _base_.train_pipeline
train_pipeline[2] = dict(
    type='RandomChoiceResize', keep_ratio=True, scales=[(1333, s) for s in range(480, 801, 32)])
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(end=36, milestones=[27, 33])
train_cfg = dict(max_epochs=36)
