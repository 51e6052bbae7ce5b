# Semantic FPN, SCHEMEformer-S12 (44-e8), ADE20K, 40k iterations of 32 images.
_base_ = [
    '_base_/models/semantic_fpn_scheme.py', '_base_/datasets/ade20k.py',
    '_base_/schedules/semantic_fpn_40k.py'
]
test_pipeline, tta_pipeline = _base_.test_pipeline, _base_.tta_pipeline
align = dict(type='ResizeToMultiple', size_divisor=32)
test_pipeline.insert(2, align)
tta_pipeline[1]['transforms'].insert(1, [align])
train_dataloader = dict(batch_size=4)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
