# Masked autoencoder, mLiT-XXS, three quarters of the patches hidden, on mmpretrain's decoder and
# head. `tools/train.py CLASSIFIER --pretrained CHECKPOINT` continues from it. Width and depth of the
# decoder are ours.
_base_ = '_base_/cls.py'
model = dict(
    _delete_=True,
    type='MAE',
    data_preprocessor=dict(
        type='SelfSupDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True),
    backbone=dict(
        type='mmscheme.MAEMLiT', arch='xxs', img_size=36, patch_size=3, mask_ratio=0.75),
    neck=dict(
        type='MAEPretrainDecoder',
        num_patches=144,
        patch_size=3,
        in_chans=3,
        embed_dim=108,
        decoder_embed_dim=108,
        decoder_depth=2,
        decoder_num_heads=6,
        mlp_ratio=4.),
    head=dict(
        type='MAEPretrainHead',
        norm_pix=True,
        patch_size=3,
        loss=dict(type='PixelReconstructionLoss', criterion='L2')))
# The images of a batch in one tensor, as mmpretrain's MAE wants them.
train_dataloader = dict(collate_fn=dict(type='default_collate'))
optim_wrapper = dict(optimizer=dict(lr=6e-4, betas=(0.9, 0.95)))
val_dataloader = None
val_cfg = None
val_evaluator = None
test_dataloader = None
test_cfg = None
test_evaluator = None
default_hooks = dict(checkpoint=dict(save_best=None))
