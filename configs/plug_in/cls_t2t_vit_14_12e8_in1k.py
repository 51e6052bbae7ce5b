# Classifier, T2T-ViT-14 (12-e8), ImageNet-1K.
_base_ = 'cls_t2t_vit_14_44e8_in1k.py'
model = dict(backbone=dict(groups=(1, 2)))
