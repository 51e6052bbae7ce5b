# Classifier, ConvNeXt-T (12-e8), ImageNet-1K.
_base_ = 'cls_convnext_t_44e8_in1k.py'
model = dict(backbone=dict(groups=(1, 2)))
