# Classifier, SCHEMEformer-M36 (44-e8), same recipe as the S12 with more stochastic depth.
_base_ = 'cls_scheme_s_in1k.py'
model = dict(backbone=dict(arch='m36', drop_path_rate=0.3), head=dict(in_channels=768))
