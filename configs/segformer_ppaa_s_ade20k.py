# SegFormer's head on the dense MetaFormer-PPAA-S12, the baseline of SCHEMEformer-S12.
_base_ = 'segformer_scheme_s_ade20k.py'
model = dict(backbone=dict(groups=(1, 1), expansion=4, cca=False))
