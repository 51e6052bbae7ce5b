# CCA of the covariance as it is, an epoch more at 96x96.
_base_ = '../../_base_/fine_tune_96.py'
model = dict(backbone=dict(cca_scaling='covariance', cca_tau=1.))
study = dict(after='covariance_1')
