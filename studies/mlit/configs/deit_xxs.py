# A DeiT of the size of mLiT-XXS: as deep, with dense FFNs and usual attention.
_base_ = '../../_base_/imagenette_36.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='VisionTransformer',
        arch=dict(embed_dims=76, num_layers=9, num_heads=4, feedforward_channels=304),
        img_size=36,
        patch_size=3),
    head=dict(in_channels=76))
