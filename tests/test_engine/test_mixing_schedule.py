"""The schedule that takes CCA out of training."""
import math
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub

from mmscheme.engine.hooks import MixingScheduleHook
from mmscheme.models import SCHEMEformer
from mmscheme.registry import HOOKS
from tests.models import TINY, tiny_run, train


def step(hook, model, iteration, of):
    runner = SimpleNamespace(iter=iteration, max_iters=of, model=model,
                             message_hub=MessageHub('x'), hooks=())
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


def test_dense_guides_fall_along_a_cosine_over_the_first_half():
    hook = MixingScheduleHook((0.5, 0.9))
    assert [hook.factor(p, dense=True) for p in (0, 0.25, 0.5, 1)] == pytest.approx([1, 0.5, 0, 0])
    assert hook.factor(0.125, dense=True) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    for each in (hook, MixingScheduleHook(None)):
        model = SCHEMEformer(TINY, guide='dense')
        assert [step(each, model, i, 8).pop() for i in (1, 3, 7)] == pytest.approx([0.5, 0, 0])
        assert all(b.channel_mixer.cca_retired for stage in model.stages for b in stage)
    # An initialisation has rescaled the blocks: at the start of a run the guide is theirs again.
    model = SCHEMEformer(TINY, guide='dense')
    for iteration, same in ((3, False), (0, True), (1, True)):
        for mixer in [b.channel_mixer for stage in model.stages for b in stage]:
            mixer.ffn.fc2.weight.data *= 1.5 - 0.5 * (iteration == 1)
        runner = SimpleNamespace(iter=iteration, max_iters=8, model=model, hooks=(),
                                 message_hub=MessageHub('x'))
        MixingScheduleHook().before_train(runner)
        x = torch.randn(2, mixer.ffn.fc1.in_features, 3, 3)
        assert torch.allclose(mixer(x), mixer.ffn(x), atol=1e-6) == same
    mixer.lower_cca_factor(0.9)
    mixer.ffn.fc2.weight.data *= 2
    mixer.start_guide()
    assert not torch.allclose(mixer(x), mixer.ffn(x), atol=1e-6)
    late = MixingScheduleHook(dense_decay=(0.5, 1.))
    assert step(late, SCHEMEformer(TINY, guide='dense'), 3, 8) == {1.}
    with pytest.raises(ValueError, match='dense_decay: expected'):
        MixingScheduleHook(dense_decay=(1, 0))


def test_models_without_cca_are_left_alone():
    hook, model = MixingScheduleHook((0, 1)), SCHEMEformer(TINY, cca=False)
    runner = SimpleNamespace(iter=5, max_iters=10, model=model, message_hub=MessageHub('x'),
                             hooks=())
    hook.before_train(runner)
    hook.before_train_iter(runner, 0)


@pytest.mark.parametrize('decay', [(0.9, 0.5), (0.5, ), (-0.1, 0.5), (0.5, 1.1)])
def test_wrong_decay_is_named(decay):
    with pytest.raises(ValueError, match='decay: expected'):
        MixingScheduleHook(decay)


@pytest.mark.parametrize('arguments', [dict(retire=0), dict(retire=1.5), dict(interval=0)])
def test_wrong_retirement_is_named(arguments):
    with pytest.raises(ValueError, match=f'{next(iter(arguments))}: expected'):
        MixingScheduleHook(**arguments)


def test_cca_retires_where_its_weight_stays_below_the_threshold():
    model, lines = SCHEMEformer(TINY), []
    mixers = [b.channel_mixer for stage in model.stages for b in stage]
    hook = MixingScheduleHook(None, retire=0.01, interval=10)
    logger = SimpleNamespace(info=lines.append)
    runner = SimpleNamespace(iter=0, max_iters=100, model=model, logger=logger,
                             message_hub=MessageHub('x'), hooks=())
    hook.before_train(runner)
    with torch.no_grad():
        mixers[1].alpha_logit.fill_(6.)
        mixers[2].alpha_logit.fill_(6.)
    for runner.iter in range(21):
        if runner.iter == 7:  # a new process, which has the message hub of the checkpoint
            hook = MixingScheduleHook(None, retire=0.01, interval=10)
            hook.before_train(runner)
        with torch.no_grad():  # back over the threshold at every other check
            mixers[2].alpha_logit.fill_(6. if runner.iter % 20 < 10 else 4.)
        hook.before_train_iter(runner, 0)
        assert mixers[1].cca_retired == (runner.iter >= 10)
    assert [m.cca_retired for m in mixers] == [False, True, False, False]
    assert len(lines) == 1 and lines[0].startswith('stages.1.0.channel_mixer: CCA retired')
    fallen = MixingScheduleHook((0, 0))
    fallen.before_train(runner)
    runner.iter = 50
    fallen.before_train_iter(runner, 0)
    assert mixers[0].cca_retired and mixers[0].alpha == 1


def factors(checkpoint):
    return {key.split('.')[2]: float(value) for key, value in checkpoint['state_dict'].items()
            if key.endswith('cca_factor')}


@pytest.mark.slow
@pytest.mark.parametrize('update_buffers', [False, True])
def test_averaged_weights_are_at_the_end_of_the_schedule_too(scenes, tmp_path, update_buffers):
    cfg = tiny_run('upernet', scenes, tmp_path)
    cfg.custom_hooks = [dict(type='EMAHook', momentum=0.1, update_buffers=update_buffers)]
    assert factors(train(cfg)) == dict.fromkeys('0123', 0)
    log, = tmp_path.glob('*/*.log')
    assert 'CCA has decayed: its weight is 0 in all 4 blocks' in log.read_text()


@pytest.mark.slow
def test_a_run_with_a_dense_guide(scenes, tmp_path):
    cfg = tiny_run('upernet', scenes, tmp_path)
    cfg.model.backbone.update(guide='dense', sample_guide=True, interleave=True)
    assert factors(train(cfg)) == dict.fromkeys('0123', 0)
    log, = tmp_path.glob('*/*.log')
    assert 'the dense guide has decayed: its weight is 0 in all 4 blocks' in log.read_text()
    # Without the schedule evaluation would use weights that were never trained.
    cfg.default_hooks.mixing_schedule = None
    with pytest.raises(ValueError, match='4 blocks have a dense guide and no hook'):
        train(cfg)


@pytest.mark.slow
def test_the_output_of_frozen_stages_stays(scenes, tmp_path):
    cfg = tiny_run('upernet', scenes, tmp_path)
    cfg.model.backbone.frozen_stages = 2
    assert factors(train(cfg)) == {'0': 1, '1': 1, '2': 0, '3': 0}
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert '2 frozen blocks keep their CCA weight' in log
    assert 'CCA has decayed: its weight is 0 in all 2 blocks' in log
    model = SCHEMEformer(TINY, frozen_stages=4)
    x = torch.randn(2, 3, 64, 64)
    before = model(x)[1]
    assert step(MixingScheduleHook((0, 0.5)), model, 99, 100) == {1.}
    step(MixingScheduleHook(None, retire=0.99, interval=1), model, 0, 100)
    assert torch.equal(model(x)[1], before)
