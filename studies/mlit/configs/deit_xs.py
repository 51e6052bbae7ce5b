# A DeiT of the size of mLiT-XS: as deep, with dense FFNs and usual attention.
_base_ = '../../_base_/imagenette_36.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='VisionTransformer',
        arch=dict(embed_dims=90, num_layers=12, num_heads=6, feedforward_channels=360),
        img_size=36,
        patch_size=3),
    head=dict(in_channels=90))
