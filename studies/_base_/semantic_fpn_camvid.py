# A small Semantic FPN on road scenes: CamVid, 367 images to train and 101 to test with, its 11
# classes with the ids of ADE20K's 150, in ADE20K's layout. At half size, 300 iterations of 8 crops.
_base_ = '../../configs/semantic_fpn_scheme_s_ade20k.py'
model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(
        arch=dict(_delete_=True, depths=(1, 1, 2, 1), embed_dims=(32, 64, 128, 256)),
        init_std=None,
        alpha_init=0.5,
        cca_scaling='gram'),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64),
    decode_head=dict(in_channels=[64, 64, 64, 64], channels=64))
root = 'data/camvid_as_ade20k'
train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline
train_pipeline[2].update(scale=(240, 180), ratio_range=(0.75, 1.5))
train_pipeline[3]['crop_size'] = (128, 128)
test_pipeline[1]['scale'] = (240, 180)
train_dataloader = dict(
    batch_size=8, num_workers=0, dataset=dict(data_root=root, pipeline=train_pipeline))
test_dataloader = dict(num_workers=0, dataset=dict(data_root=root, pipeline=test_pipeline))
val_dataloader = None
val_cfg = None
val_evaluator = None
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(type='PolyLR', eta_min=0., power=0.9, by_epoch=False, begin=20, end=300)
]
train_cfg = dict(max_iters=300, val_interval=300)
default_hooks = dict(
    checkpoint=dict(interval=150, max_keep_ckpts=1, save_best=None),
    logger=dict(interval=20),
    mixing_schedule=dict(decay=(0.5, 0.9)))
auto_scale_lr = dict(base_batch_size=8)
study = dict(seeds=(0, 1))
