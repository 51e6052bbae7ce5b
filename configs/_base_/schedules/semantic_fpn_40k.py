# PoolFormer's recipe for Semantic FPN: 40k iterations of 32 images.
_base_ = ['adamw.py', '../seg_runtime.py']
optim_wrapper = dict(optimizer=dict(lr=2e-4, weight_decay=1e-4))
param_scheduler = dict(type='PolyLR', eta_min=0., power=0.9, by_epoch=False, begin=0, end=40000)
train_cfg = dict(type='mmscheme.IterBasedTrainLoop', max_iters=40000, val_interval=4000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(checkpoint=dict(interval=4000))
auto_scale_lr = dict(enable=False, base_batch_size=32)
