# mLiT-XXS on the objects of the generated scenes for a minute on a CPU.
# `python tools/make_scenes.py data/scenes` writes the scenes.
_base_ = '_base_/cls.py'
model = dict(data_preprocessor=dict(num_classes=6), head=dict(num_classes=6))
train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    dataset=dict(data_root='data/scenes', data_prefix='objects/train'))
val_dataloader = dict(
    batch_size=32, num_workers=1, dataset=dict(data_root='data/scenes', data_prefix='objects/val'))
test_dataloader = val_dataloader
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=20),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, end=4, convert_to_iter_based=True)
]
train_cfg = dict(max_epochs=4, val_interval=2)
default_hooks = dict(logger=dict(interval=10))
auto_scale_lr = dict(base_batch_size=32)
