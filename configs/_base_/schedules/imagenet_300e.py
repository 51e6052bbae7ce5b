# PoolFormer's recipe for ImageNet: 300 epochs, 1024 images per iteration.
_base_ = ['adamw.py', '../cls_runtime.py']
optim_wrapper = dict(
    optimizer=dict(lr=1e-3), paramwise_cfg=dict(bias_decay_mult=0., flat_decay_mult=0.))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=5, end=300, T_max=295)
]
train_cfg = dict(type='mmscheme.EpochBasedTrainLoop', max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()
# In 300 epochs, alpha goes to 1 by itself (arXiv 2312.00412).
default_hooks = dict(mixing_schedule=dict(decay=None))
auto_scale_lr = dict(enable=False, base_batch_size=1024)
