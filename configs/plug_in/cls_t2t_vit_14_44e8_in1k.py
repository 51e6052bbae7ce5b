# Classifier, T2T-ViT-14 (44-e8), ImageNet-1K.
_base_ = '_base_/cls.py'
model = dict(
    backbone=dict(
        # Stage 0 is the tokens-to-token module, whose expansion is 1.
        stages=(1, ),
        backbone=dict(
            type='T2T_ViT',
            img_size=224,
            embed_dims=384,
            num_layers=14,
            t2t_cfg=dict(token_dims=64, use_performer=False),
            layer_cfgs=dict(num_heads=6, feedforward_channels=3 * 384),
            drop_path_rate=0.1)),
    neck=None,
    head=dict(type='VisionTransformerClsHead', in_channels=384))
