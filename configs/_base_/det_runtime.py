_base_ = 'default_runtime.py'
default_scope = 'mmdet'
default_hooks = dict(
    checkpoint=dict(interval=1, save_best='coco/bbox_mAP', rule='greater'),
    visualization=dict(type='DetVisualizationHook'))
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='DetLocalVisualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(by_epoch=True)
# Off, because nearly every batch has another size.
env_cfg = dict(cudnn_benchmark=False)
