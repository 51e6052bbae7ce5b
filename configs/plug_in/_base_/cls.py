# Classifier on a stock backbone with SCHEME in 44-e8, ImageNet-1K, 300 epochs, 1024 images per
# iteration. The configs that inherit from this one name the backbone and its width.
_base_ = [
    '../../_base_/models/cls_scheme.py', '../../_base_/datasets/imagenet.py',
    '../../_base_/schedules/imagenet_300e.py'
]
model = dict(
    backbone=dict(
        _delete_=True, type='mmscheme.SCHEMEWrapper', groups=(4, 4), expansion=8, cca=True,
        strict=True),
    # As in the stock configs; SCHEME layers initialise themselves.
    init_cfg=[
        dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.),
        dict(type='Constant', layer='LayerNorm', val=1., bias=0.)
    ])
