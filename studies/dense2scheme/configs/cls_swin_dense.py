# A small dense Swin on Imagenette at 112x112: a trained model to convert.
_base_ = 'cls_s12_dense.py'
model = dict(
    backbone=dict(
        _delete_=True, type='SwinTransformer', img_size=112, drop_path_rate=0.1,
        arch=dict(embed_dims=48, depths=[2, 2, 4, 2], num_heads=[2, 4, 8, 16])),
    head=dict(in_channels=384))
