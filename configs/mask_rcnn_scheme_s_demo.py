# mask_rcnn_scheme_s_coco for a few minutes on a CPU: generated scenes, smaller images, and
# anchors and heads to match. `python tools/make_scenes.py data/scenes` writes the scenes.
_base_ = 'mask_rcnn_scheme_s_coco.py'
scenes = dict(type='mmscheme.ScenesInstanceDataset', data_root='data/scenes')
train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline
train_pipeline[2]['scale'] = test_pipeline[1]['scale'] = (160, 128)
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    dataset=dict(**scenes, filter_cfg=dict(min_size=0), pipeline=train_pipeline))
val_dataloader = dict(num_workers=1, dataset=dict(**scenes, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='data/scenes/annotations/instances_val2017.json')
test_evaluator = val_evaluator
model = dict(
    neck=dict(out_channels=128, num_outs=4),
    rpn_head=dict(
        in_channels=128,
        feat_channels=128,
        anchor_generator=dict(scales=[4], strides=[4, 8, 16, 32])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=128),
        bbox_head=dict(in_channels=128, fc_out_channels=256, num_classes=6),
        mask_roi_extractor=dict(out_channels=128),
        mask_head=dict(in_channels=128, conv_out_channels=128, num_classes=6)),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200), rcnn=dict(sampler=dict(num=128))),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=40),
    dict(type='PolyLR', power=1., by_epoch=True, begin=0, end=8, convert_to_iter_based=True)
]
train_cfg = dict(max_epochs=8, val_interval=4)
default_hooks = dict(logger=dict(interval=10), visualization=dict(score_thr=0.5))
auto_scale_lr = dict(base_batch_size=4)
visualizer = dict(line_width=1)  # the pictures are small
