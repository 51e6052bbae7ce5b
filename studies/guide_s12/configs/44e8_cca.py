# 44-e8 with CCA and the schedule.
_base_ = '../../_base_/imagenette_128.py'
