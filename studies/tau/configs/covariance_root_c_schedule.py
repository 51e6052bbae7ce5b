# CCA of the covariance times sqrt(C), with the schedule.
_base_ = '../../_base_/imagenette_64.py'
model = dict(backbone=dict(cca_scaling='covariance'))
