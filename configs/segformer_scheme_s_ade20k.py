# SegFormer's head, SCHEMEformer-S12 (44-e8), ADE20K, 160k iterations of 16 images.
_base_ = [
    '_base_/models/segformer_scheme.py', '_base_/datasets/ade20k.py',
    '_base_/schedules/upernet_160k.py'
]
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'decode_head': dict(lr_mult=10.)}))
