# upernet_scheme_s_ade20k for a few minutes on a CPU: generated scenes, smaller crops, narrower
# heads and fewer iterations. `python tools/make_scenes.py data/scenes` writes the scenes.
_base_ = 'upernet_scheme_s_ade20k.py'
scenes = dict(type='mmscheme.ScenesDataset', data_root='data/scenes')
crop_size = (128, 128)
train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline
train_pipeline[2]['scale'] = test_pipeline[1]['scale'] = (160, 128)
train_pipeline[3]['crop_size'] = crop_size
train_dataloader = dict(
    batch_size=8, num_workers=1, dataset=dict(**scenes, pipeline=train_pipeline))
val_dataloader = dict(num_workers=1, dataset=dict(**scenes, pipeline=test_pipeline))
test_dataloader = val_dataloader
model = dict(
    data_preprocessor=dict(size=crop_size),
    decode_head=dict(channels=128, num_classes=9),
    auxiliary_head=dict(channels=64, num_classes=9))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=20),
    dict(type='PolyLR', eta_min=0., power=1., by_epoch=False, begin=20, end=300)
]
train_cfg = dict(max_iters=300, val_interval=300)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=100))
auto_scale_lr = dict(base_batch_size=8)
