# SCHEMEformer-S12 (44-e8) on Imagenette at 128x128 for 6 epochs.
_base_ = 'imagenette_64.py'
model = dict(
    backbone=dict(arch='s12', init_std=None, pos_embed=(8, 8)), head=dict(in_channels=512))
train_pipeline, test_pipeline = (_base_[f'{split}_dataloader'].dataset.pipeline
                                 for split in ('train', 'test'))
train_pipeline[1]['scale'] = 128
test_pipeline[1]['scale'], test_pipeline[2]['crop_size'] = 144, 128
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
