# CCA of the covariance times sqrt(C).
_base_ = '../../_base_/learned_alpha.py'
model = dict(backbone=dict(cca_scaling='covariance'))
