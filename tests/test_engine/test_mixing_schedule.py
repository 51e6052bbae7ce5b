"""The schedule that takes CCA out of training."""
from types import SimpleNamespace

import pytest
import torch

from mmscheme.engine.hooks import MixingScheduleHook
from mmscheme.models import SCHEMEformer
from mmscheme.registry import HOOKS

TINY = dict(depths=(1, 1, 1, 1), embed_dims=(8, 16, 32, 64))


def step(hook, model, iteration, of):
    runner = SimpleNamespace(iter=iteration, max_iters=of, model=model)
    hook.before_train(runner)
    hook.before_train_iter(runner, 0)
    return {float(b.channel_mixer.cca_factor) for stage in model.stages for b in stage}


def test_factor_falls_linearly_between_the_two_points():
    hook = HOOKS.build(dict(type='mmscheme.MixingScheduleHook', decay=(0.2, 0.7)))
    assert [hook.factor(p) for p in (0, 0.2, 0.7, 1)] == [1, 1, 0, 0]
    assert hook.factor(0.45) == pytest.approx(0.5) and hook.factor(0.6) == pytest.approx(0.2)
    assert MixingScheduleHook((0.5, 0.5)).factor(0.5) == 0
    assert MixingScheduleHook(None).factor(1) == 1
    assert MixingScheduleHook((0, 0)).factor(0) == 0


def test_all_mixers_follow_and_the_last_iteration_is_the_end():
    hook, model = MixingScheduleHook((0, 1)), SCHEMEformer(TINY)
    factors = [step(hook, model, i, 10) for i in range(10)]
    assert all(len(f) == 1 for f in factors)
    assert [f.pop() for f in factors] == pytest.approx([1 - (i + 1) / 10 for i in range(10)])
    torch.manual_seed(0)
    x = torch.randn(2, 3, 64, 64)
    for a, b in zip(model.train()(x), model.eval()(x)):
        assert torch.equal(a, b)


def test_it_never_rises_again():
    hook, model = MixingScheduleHook((0.5, 0.9)), SCHEMEformer(TINY)
    assert step(hook, model, 99, 100) == {0.}
    assert step(hook, model, 0, 100) == {0.}  # fine-tuning of weights without CCA
    resumed = SCHEMEformer(TINY)
    at_60 = step(hook, resumed, 59, 100)
    fresh = SCHEMEformer(TINY)
    fresh.load_state_dict(resumed.state_dict())
    assert list(at_60) == pytest.approx([0.75])
    assert step(hook, fresh, 59, 100) == at_60
    assert list(step(hook, fresh, 60, 100)) == pytest.approx([0.725])


def test_models_without_cca_are_left_alone():
    hook, model = MixingScheduleHook((0, 1)), SCHEMEformer(TINY, cca=False)
    runner = SimpleNamespace(iter=5, max_iters=10, model=model)
    hook.before_train(runner)
    hook.before_train_iter(runner, 0)


@pytest.mark.parametrize('decay', [(0.9, 0.5), (0.5, ), (-0.1, 0.5), (0.5, 1.1)])
def test_wrong_decay_is_named(decay):
    with pytest.raises(ValueError, match='decay: expected'):
        MixingScheduleHook(decay)
