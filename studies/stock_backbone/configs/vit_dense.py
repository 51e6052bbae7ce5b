# A stock vision transformer, DeiT scaled down: 4 layers, 96 channels, 64 patches of 8x8 pixels.
_base_ = '../../_base_/imagenette_64.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='VisionTransformer',
        arch=dict(embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384),
        img_size=64,
        patch_size=8),
    neck=None,
    head=dict(type='VisionTransformerClsHead', in_channels=96))
study = dict(seeds=(0, 1))
