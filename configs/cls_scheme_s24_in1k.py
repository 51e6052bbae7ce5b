# Classifier, SCHEMEformer-S24 (44-e8), same recipe as the S12.
_base_ = 'cls_scheme_s_in1k.py'
model = dict(backbone=dict(arch='s24'))
