# Mask2Former, Swin-T, ADE20K, Mask2Former's recipe: 160k iterations of 16 images. Backbone and
# pixel decoder are 44-e8. It needs mmdet beside mmseg.
_base_ = ['../_base_/datasets/ade20k.py', '../_base_/schedules/upernet_160k.py']
crop_size = (512, 512)
num_classes = 150
attention = dict(
    embed_dims=256,
    num_heads=8,
    attn_drop=0.0,
    proj_drop=0.0,
    dropout_layer=None,
    batch_first=True)
position = dict(num_feats=128, normalize=True)
model = dict(
    type='mmscheme.SCHEMEWrapper',
    groups=(4, 4),
    expansion=8,
    within=('backbone', 'pixel_decoder'),
    strict=True,
    backbone=dict(
        type='EncoderDecoder',
        data_preprocessor=dict(
            type='SegDataPreProcessor',
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            bgr_to_rgb=True,
            pad_val=0,
            seg_pad_val=255,
            size=crop_size,
            test_cfg=dict(size_divisor=32)),
        backbone=dict(type='SwinTransformer', drop_path_rate=0.3),
        decode_head=dict(
            type='Mask2FormerHead',
            in_channels=[96, 192, 384, 768],
            strides=[4, 8, 16, 32],
            feat_channels=256,
            out_channels=256,
            num_classes=num_classes,
            num_queries=100,
            num_transformer_feat_level=3,
            align_corners=False,
            pixel_decoder=dict(
                type='mmdet.MSDeformAttnPixelDecoder',
                num_outs=3,
                norm_cfg=dict(type='GN', num_groups=32),
                act_cfg=dict(type='ReLU'),
                encoder=dict(
                    num_layers=6,
                    layer_cfg=dict(
                        self_attn_cfg=dict(
                            embed_dims=256,
                            num_heads=8,
                            num_levels=3,
                            num_points=4,
                            dropout=0.0,
                            batch_first=True),
                        ffn_cfg=dict(
                            embed_dims=256,
                            feedforward_channels=1024,
                            num_fcs=2,
                            ffn_drop=0.0,
                            act_cfg=dict(type='ReLU', inplace=True)))),
                positional_encoding=position),
            enforce_decoder_input_project=False,
            positional_encoding=position,
            transformer_decoder=dict(
                return_intermediate=True,
                num_layers=9,
                layer_cfg=dict(
                    self_attn_cfg=attention,
                    cross_attn_cfg=attention,
                    ffn_cfg=dict(
                        embed_dims=256,
                        feedforward_channels=2048,
                        num_fcs=2,
                        act_cfg=dict(type='ReLU', inplace=True),
                        ffn_drop=0.0,
                        add_identity=True))),
            loss_cls=dict(
                type='mmdet.CrossEntropyLoss',
                use_sigmoid=False,
                loss_weight=2.0,
                reduction='mean',
                class_weight=[1.0] * num_classes + [0.1]),
            loss_mask=dict(
                type='mmdet.CrossEntropyLoss',
                use_sigmoid=True,
                reduction='mean',
                loss_weight=5.0),
            loss_dice=dict(
                type='mmdet.DiceLoss',
                use_sigmoid=True,
                activate=True,
                reduction='mean',
                naive_dice=True,
                eps=1.0,
                loss_weight=5.0),
            train_cfg=dict(
                num_points=12544,
                oversample_ratio=3.0,
                importance_sample_ratio=0.75,
                assigner=dict(
                    type='mmdet.HungarianAssigner',
                    match_costs=[
                        dict(type='mmdet.ClassificationCost', weight=2.0),
                        dict(type='mmdet.CrossEntropyLossCost', weight=5.0, use_sigmoid=True),
                        dict(type='mmdet.DiceCost', weight=5.0, pred_act=True, eps=1.0)
                    ]),
                sampler=dict(type='mmdet.MaskPseudoSampler'))),
        train_cfg=dict(),
        test_cfg=dict(mode='whole')))

train_pipeline = _base_.train_pipeline
train_pipeline[2] = dict(
    type='RandomChoiceResize',
    scales=[int(512 * x * 0.1) for x in range(5, 21)],
    resize_type='ResizeShortestEdge',
    max_size=2048)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
# The backbone learns at a tenth of the rate; no decay on norms and embeddings.
slow, free = dict(lr_mult=0.1, decay_mult=0.), dict(decay_mult=0.)
norms = [f'stages.{i}.blocks.{j}.norm' for i, depth in enumerate((2, 2, 6, 2))
         for j in range(depth)] + [f'stages.{i}.downsample.norm' for i in range(3)]
optim_wrapper = dict(
    optimizer=dict(lr=1e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=0.01, norm_type=2),
    paramwise_cfg=dict(
        custom_keys={
            'backbone': dict(lr_mult=0.1),
            'relative_position_bias_table': slow,
            **{f'backbone.{name}': slow for name in ['patch_embed.norm', 'norm', *norms]},
            'query_embed': free,
            'query_feat': free,
            'level_embed': free
        }))
param_scheduler = [
    dict(type='PolyLR', eta_min=0., power=0.9, by_epoch=False, begin=0, end=160000)
]
