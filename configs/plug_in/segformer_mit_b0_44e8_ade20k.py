# SegFormer-B0 (44-e8), ADE20K, SegFormer's recipe: 160k iterations of 16 images.
_base_ = '../segformer_scheme_s_ade20k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmscheme.SCHEMEWrapper',
        groups=(4, 4),
        expansion=8, strict=True,
        backbone=dict(
            type='MixVisionTransformer',
            embed_dims=32,
            num_layers=[2, 2, 2, 2],
            num_heads=[1, 2, 5, 8],
            drop_path_rate=0.1)),
    decode_head=dict(in_channels=[32, 64, 160, 256]))
