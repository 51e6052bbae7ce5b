# cls_scheme_s_in1k for a few minutes on a CPU: objects of the generated scenes, smaller images,
# fewer epochs. `python tools/make_scenes.py data/scenes` writes the scenes.
_base_ = 'cls_scheme_s_in1k.py'
model = dict(
    data_preprocessor=dict(num_classes=6),
    head=dict(num_classes=6, topk=(1, )),
    train_cfg=dict(_delete_=True))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64)),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs')
]
test_pipeline = [step for step in train_pipeline if step['type'] != 'RandomFlip']
objects = dict(_delete_=True, type='CustomDataset', data_root='data/scenes')
train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    dataset=dict(**objects, data_prefix='objects/train', pipeline=train_pipeline))
val_dataloader = dict(
    num_workers=1, dataset=dict(**objects, data_prefix='objects/val', pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1, ))
test_evaluator = val_evaluator
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=20),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, end=8, convert_to_iter_based=True)
]
train_cfg = dict(max_epochs=8, val_interval=2)
default_hooks = dict(logger=dict(interval=10), mixing_schedule=dict(decay=(0.5, 0.9)))
auto_scale_lr = dict(base_batch_size=32)
