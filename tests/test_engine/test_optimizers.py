"""Learning rates by the number of inputs of a block."""
import pytest
from mmengine.optim import build_optim_wrapper

from mmscheme.models import SCHEMEformer

TINY = dict(depths=(1, 1, 1, 1), embed_dims=(8, 16, 32, 64))


def rates(model, **paramwise):
    wrapper = build_optim_wrapper(model, dict(
        constructor='mmscheme.FanInOptimWrapperConstructor', paramwise_cfg=paramwise or None,
        optimizer=dict(type='AdamW', lr=0.1, weight_decay=0.05)))
    names = {id(p): n for n, p in model.named_parameters()}
    return {names[id(p)]: (group['lr'], group['weight_decay'])
            for group in wrapper.optimizer.param_groups for p in group['params']}


def test_rates_of_block_diagonal_weights_follow_their_groups():
    model = SCHEMEformer(TINY, groups=(4, 2), guide='dense')
    for power, paramwise in ((1, {}), (0.5, dict(fan_in_power=0.5))):
        found = rates(model, **paramwise)
        assert set(found) == {n for n, _ in model.named_parameters()}
        for name, (lr, decay) in found.items():
            groups = {'fc1.weight': 4, 'fc2.weight': 2}.get('.'.join(name.split('.')[-2:]), 1)
            assert lr == pytest.approx(0.1 * groups**power), name
            assert decay == 0.05


def test_other_options_of_parameters_stay():
    found = rates(SCHEMEformer(TINY), bias_decay_mult=0., fan_in_power=2.,
                  custom_keys={'stages.0.0.channel_mixer': dict(lr_mult=0.5)})
    name = 'stages.{}.0.channel_mixer.ffn.fc1.'
    assert found[name.format(0) + 'weight'] == pytest.approx((0.1 * 0.5 * 16, 0.05))
    assert found[name.format(0) + 'bias'] == pytest.approx((0.1 * 0.5, 0.05))
    assert found[name.format(1) + 'weight'] == pytest.approx((0.1 * 16, 0.05))
    assert found[name.format(1) + 'bias'] == pytest.approx((0.1, 0.))


@pytest.mark.parametrize('optimizer, power, name', [
    (dict(type='AdamW', lr=0.1), 'one', 'fan_in_power'), (dict(type='AdamW'), 1, 'optimizer.lr')])
def test_wrong_arguments_are_named(optimizer, power, name):
    with pytest.raises(TypeError, match=f'{name}: expected'):
        build_optim_wrapper(SCHEMEformer(TINY), dict(
            constructor='mmscheme.FanInOptimWrapperConstructor', optimizer=optimizer,
            paramwise_cfg=dict(fan_in_power=power)))
