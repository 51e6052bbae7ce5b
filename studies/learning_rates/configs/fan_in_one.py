# 44-e8 without CCA, learning rate of the blocks times the groups.
_base_ = '../../_base_/imagenette_64.py'
model = dict(backbone=dict(cca=False, init_std=None))
optim_wrapper = dict(
    constructor='mmscheme.FanInOptimWrapperConstructor', paramwise_cfg=dict(fan_in_power=1.))
