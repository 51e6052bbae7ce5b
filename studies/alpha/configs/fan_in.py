# alpha left to itself, initial weights by the number of inputs.
_base_ = '../../channel_mixers/configs/44e8_learned.py'
model = dict(backbone=dict(init_std=None))
