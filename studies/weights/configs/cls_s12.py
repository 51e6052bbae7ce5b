# SCHEMEformer-S12 itself (44-e8) on Imagenette at 64x64, 3 epochs; its weights are written.
_base_ = '../../_base_/imagenette_64.py'
model = dict(backbone=dict(arch='s12', init_std=None, pos_embed=True), head=dict(in_channels=512))
param_scheduler = _base_.param_scheduler
param_scheduler[1]['end'] = 3
train_cfg = dict(max_epochs=3, val_interval=3)
study = dict(seeds=(0, ), publish=True)
