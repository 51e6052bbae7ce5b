# alpha left to itself, with ten times the learning rate of the rest.
_base_ = '../../channel_mixers/configs/44e8_learned.py'
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(alpha_logit=dict(lr_mult=10.))))
