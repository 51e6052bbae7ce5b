# A small SCHEMEformer (44-e8) on Imagenette (10 classes, 9469 images to train and 3925 to test
# with) at 64x64 for 6 epochs: two minutes on one core. `data_root` has Imagenette of any size.
_base_ = '../../configs/cls_scheme_s_in1k.py'
model = dict(
    data_preprocessor=dict(num_classes=10),
    backbone=dict(
        arch=dict(_delete_=True, depths=(1, 1, 2, 1), embed_dims=(32, 64, 128, 256)),
        # Said here, so that results stay of these whatever becomes the default.
        init_std=0.02,
        alpha_init=0.5,
        cca_scaling='gram',
        pos_embed=(4, 4),
        drop_path_rate=0.),
    head=dict(num_classes=10, in_channels=256, topk=(1, )),
    train_cfg=dict(_delete_=True))
imagenette = dict(_delete_=True, type='CustomDataset', data_root='data/imagenette')
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    dataset=dict(
        **imagenette,
        data_prefix='train',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='RandomResizedCrop', scale=64, crop_ratio_range=(0.35, 1.0)),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='PackInputs')
        ]))
test_dataloader = dict(
    batch_size=64,
    num_workers=0,
    dataset=dict(
        **imagenette,
        data_prefix='val',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='ResizeEdge', scale=72, edge='short'),
            dict(type='CenterCrop', crop_size=64),
            dict(type='PackInputs')
        ]))
val_dataloader = None
val_cfg = None
val_evaluator = None
test_evaluator = dict(_delete_=True, type='Accuracy', topk=(1, ))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=80),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, end=6, convert_to_iter_based=True)
]
train_cfg = dict(max_epochs=6, val_interval=6)
default_hooks = dict(
    checkpoint=dict(max_keep_ckpts=1, save_best=None),
    logger=dict(interval=20),
    mixing_schedule=dict(decay=(0.5, 0.9)))
auto_scale_lr = dict(base_batch_size=64)
study = dict(seeds=(0, 1, 2))
