# Semantic FPN, SCHEMEformer-S12 (44-e8), ADE20K, 40k iterations of 32 images.
_base_ = [
    '_base_/models/semantic_fpn_scheme.py', '_base_/datasets/ade20k.py',
    '_base_/schedules/semantic_fpn_40k.py'
]
test_pipeline = _base_.test_pipeline
test_pipeline.insert(2, dict(type='ResizeToMultiple', size_divisor=32))
train_dataloader = dict(batch_size=4)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
