# CCA of the covariance as it is, with the schedule.
_base_ = '../../_base_/imagenette_64.py'
model = dict(backbone=dict(cca_scaling='covariance', cca_tau=1.))
