# CCA of the covariance as it is.
_base_ = '../../_base_/learned_alpha.py'
model = dict(backbone=dict(cca_scaling='covariance', cca_tau=1.))
