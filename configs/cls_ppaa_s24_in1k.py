# Classifier on the dense MetaFormer-PPAA-S24, the baseline of SCHEMEformer-S24.
_base_ = 'cls_scheme_s24_in1k.py'
model = dict(backbone=dict(groups=(1, 1), expansion=4, cca=False))
