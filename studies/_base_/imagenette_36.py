# mLiT-XXS on Imagenette at 36x36 for 10 epochs.
_base_ = '../../configs/mlit/_base_/cls.py'
train_pipeline = _base_.train_pipeline
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=40, edge='short'),
    dict(type='CenterCrop', crop_size=36),
    dict(type='PackInputs')
]
train_dataloader = dict(
    batch_size=64, num_workers=0, persistent_workers=False,
    dataset=dict(data_root='data/imagenette'))
test_dataloader = dict(
    batch_size=64, num_workers=0, persistent_workers=False,
    dataset=dict(data_root='data/imagenette', pipeline=test_pipeline))
val_dataloader = None
val_cfg = None
val_evaluator = None
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=80),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, end=10, convert_to_iter_based=True)
]
train_cfg = dict(max_epochs=10, val_interval=10)
default_hooks = dict(
    checkpoint=dict(max_keep_ckpts=1, save_best=None), logger=dict(interval=20))
auto_scale_lr = dict(base_batch_size=64)
study = dict(seeds=(0, 1))
