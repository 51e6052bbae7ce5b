# Classifier on the dense MetaFormer-PPAA-S36, the baseline of SCHEMEformer-S36.
_base_ = 'cls_scheme_s36_in1k.py'
model = dict(backbone=dict(groups=(1, 1), expansion=4, cca=False))
