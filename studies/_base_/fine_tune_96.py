# One epoch more at 96x96, alpha left to itself.
_base_ = 'learned_alpha.py'
train_pipeline, test_pipeline = (_base_[f'{split}_dataloader'].dataset.pipeline
                                 for split in ('train', 'test'))
train_pipeline[1]['scale'] = 96
test_pipeline[1]['scale'], test_pipeline[2]['crop_size'] = 108, 96
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
optim_wrapper = dict(optimizer=dict(lr=2e-4))
param_scheduler = _base_.param_scheduler
param_scheduler[0]['end'], param_scheduler[1]['end'] = 20, 1
train_cfg = dict(max_epochs=1, val_interval=1)
study = dict(
    tests=dict(
        _delete_=True, dropped_96={}, kept_96={'model.backbone.keep_cca': True}))
