# CCA of the covariance times sqrt(C), an epoch more at 96x96.
_base_ = '../../_base_/fine_tune_96.py'
model = dict(backbone=dict(cca_scaling='covariance'))
study = dict(after='covariance_root_c')
