# alpha left to itself, from 0.9 on.
_base_ = '../../channel_mixers/configs/44e8_learned.py'
model = dict(backbone=dict(alpha_init=0.9))
