# Dense MetaFormer-PPAA-S12 on Imagenette at 112x112: a trained model to convert.
_base_ = '../../_base_/imagenette_64.py'
model = dict(
    backbone=dict(arch='s12', groups=(1, 1), expansion=4, cca=False, init_std=None, pos_embed=True,
                  drop_path_rate=0.1),
    head=dict(in_channels=512))
train_pipeline = _base_.train_dataloader.dataset.pipeline
test_pipeline = _base_.test_dataloader.dataset.pipeline
train_pipeline[1]['scale'] = 112
test_pipeline[1]['scale'], test_pipeline[2]['crop_size'] = 128, 112
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
param_scheduler = _base_.param_scheduler
param_scheduler[1]['end'] = 60
train_cfg = dict(max_epochs=60, val_interval=60)
default_hooks = dict(mixing_schedule=None)
study = dict(seeds=(0, 1))
