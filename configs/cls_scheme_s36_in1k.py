# Classifier, SCHEMEformer-S36 (44-e8), same recipe as the S12 with more stochastic depth.
_base_ = 'cls_scheme_s_in1k.py'
model = dict(backbone=dict(arch='s36', drop_path_rate=0.2))
