# UPerNet, SCHEMEformer-S12 (44-e8), ADE20K, 160k iterations of 16 images.
_base_ = [
    '_base_/models/upernet_scheme.py', '_base_/datasets/ade20k.py',
    '_base_/schedules/upernet_160k.py'
]
