# Classifier, SCHEMEformer-S12 (44-e8), ImageNet-1K, 300 epochs, 1024 images per iteration.
_base_ = [
    '_base_/models/cls_scheme.py', '_base_/datasets/imagenet.py',
    '_base_/schedules/imagenet_300e.py'
]
