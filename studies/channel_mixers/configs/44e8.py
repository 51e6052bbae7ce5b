# 44-e8 with CCA and the schedule that takes it out.
_base_ = '../../_base_/imagenette_64.py'
