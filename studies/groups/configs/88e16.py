# Eight groups at E=16, with CCA and the schedule.
_base_ = '../../_base_/imagenette_64.py'
model = dict(backbone=dict(groups=(8, 8), expansion=16))
study = dict(seeds=(0, 1))
