# 44-e8 with CCA and the schedule, from random weights.
_base_ = '../../_base_/semantic_fpn_camvid.py'
