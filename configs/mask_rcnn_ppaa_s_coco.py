# Mask R-CNN on the dense MetaFormer-PPAA-S12, the baseline of SCHEMEformer-S12.
_base_ = 'mask_rcnn_scheme_s_coco.py'
model = dict(backbone=dict(groups=(1, 1), expansion=4, cca=False))
