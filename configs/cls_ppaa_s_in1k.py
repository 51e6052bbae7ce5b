# Classifier on the dense MetaFormer-PPAA-S12, the baseline of SCHEMEformer-S12.
_base_ = 'cls_scheme_s_in1k.py'
model = dict(backbone=dict(groups=(1, 1), expansion=4, cca=False))
