# SegFormer's head, SCHEMEformer-S24 (44-e8), ADE20K.
_base_ = 'segformer_scheme_s_ade20k.py'
model = dict(backbone=dict(arch='s24'))
