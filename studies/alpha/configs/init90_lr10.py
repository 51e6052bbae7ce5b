# alpha left to itself, from 0.9 on, with ten times the learning rate of the rest.
_base_ = 'lr10.py'
model = dict(backbone=dict(alpha_init=0.9))
