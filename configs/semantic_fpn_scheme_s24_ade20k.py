# Semantic FPN, SCHEMEformer-S24 (44-e8), same recipe as the S12.
_base_ = 'semantic_fpn_scheme_s_ade20k.py'
model = dict(backbone=dict(arch='s24'))
