"""A run that is made longer follows the schedule of its new length, and says so."""
import functools
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import Dataset

from mmscheme.engine.hooks import ResumedScheduleHook, mixing_schedule_hook, resumed_schedule_hook
from mmscheme.engine.hooks.mixing_schedule_hook import MixingScheduleHook
from mmscheme.models import SCHEMEformer
from tests.models import TINY, new_name
from tests.test_engine.test_mixing_schedule import step

_ITERS = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=4),
          dict(type='PolyLR', by_epoch=False, begin=4),
          dict(type='CosineAnnealingMomentum', by_epoch=False, eta_min=0.5)]
_EPOCHS = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=3),
           dict(type='MultiStepLR', milestones=[1, 3], gamma=0.5),
           dict(type='CosineAnnealingLR', convert_to_iter_based=True)]


class Numbers(Dataset):
    """Twelve numbers, four batches of three."""
    metainfo = {}

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return torch.tensor(float(index))


class Line(BaseModel):
    """Two weights with rates of their own."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (torch.nn.Parameter(torch.ones(1)) for _ in 'ab')

    def forward(self, *inputs, **kwargs):
        return dict(loss=(self.a * self.b).sum())


class Rates(Hook):
    """Note the learning rates and momenta of each iteration."""

    def __init__(self):
        self.found = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.found[runner.iter] = [(g['lr'], *g['betas'])
                                   for g in runner.optim_wrapper.param_groups]


def rates(folder, loop, schedulers, length, resume=False, optimizer=None, groups=True):
    hook = Rates()
    unit = 'max_epochs' if 'Epoch' in loop else 'max_iters'
    sampler = 'DefaultSampler' if 'Epoch' in loop else 'InfiniteSampler'
    ends = [dict(s) for s in schedulers]
    if unit == 'max_iters':
        ends[1]['end'] = length
    Runner(
        Line(), str(folder), dict(batch_size=3, dataset=Numbers(), num_workers=0,
                                  sampler=dict(type=sampler, shuffle=False)),
        train_cfg={'type': f'mmscheme.{loop}', unit: length}, param_scheduler=ends,
        optim_wrapper=dict(optimizer=optimizer or dict(type='AdamW', lr=1.), paramwise_cfg=dict(
            custom_keys=dict(b=dict(lr_mult=0.1))) if groups else None),
        default_hooks=dict(resumed_schedule=dict(type='mmscheme.ResumedScheduleHook'),
                           checkpoint=dict(type='CheckpointHook', interval=length,
                                           by_epoch=unit == 'max_epochs')),
        custom_hooks=[hook], resume=resume, default_scope='mmengine', log_level='ERROR',
        experiment_name=new_name()).train()
    return hook.found


@pytest.mark.parametrize('loop, schedulers, first, whole', [
    ('IterBasedTrainLoop', _ITERS, 8, 16), ('IterBasedTrainLoop', _ITERS, 8, 10),
    ('EpochBasedTrainLoop', _EPOCHS, 2, 5)])
def test_the_rest_of_a_longer_run_has_the_rates_of_a_run_of_that_length(
        loop, schedulers, first, whole, tmp_path, monkeypatch, safe_checkpoints):
    lines = []
    monkeypatch.setattr(resumed_schedule_hook, 'print_log', lambda line, **_: lines.append(line))
    expected = rates(tmp_path / 'whole', loop, schedulers, whole)
    begun = rates(tmp_path / 'parts', loop, schedulers, first)
    assert not lines
    resumed = rates(tmp_path / 'parts', loop, schedulers, whole, resume=True)
    assert sorted(resumed) == list(range(len(begun), len(expected)))
    for iteration, found in resumed.items():
        for group, right in zip(found, expected[iteration]):
            assert group == pytest.approx(right), iteration
    assert len(lines) == 1 and f'from iteration {len(begun)} on' in lines[0]
    assert resumed[len(begun)][0][0] > 0.05


def test_the_same_schedule_stays_as_it_was_saved(tmp_path, monkeypatch, safe_checkpoints):
    renewed = []
    monkeypatch.setattr(resumed_schedule_hook, '_renew', lambda *args: renewed.append(args))
    rates(tmp_path, 'IterBasedTrainLoop', _ITERS, 8)
    assert rates(tmp_path, 'IterBasedTrainLoop', _ITERS, 8, resume=True) == {} and not renewed


def test_what_torch_restores_is_told(tmp_path, monkeypatch, safe_checkpoints):
    """Its settings of the optimizer, and that nothing is left to train; another one is refused."""
    lines = []
    monkeypatch.setattr(resumed_schedule_hook, 'print_log', lambda line, **_: lines.append(line))
    run = functools.partial(rates, tmp_path, 'IterBasedTrainLoop', _ITERS)
    run(8)
    run(10, resume=True, optimizer=dict(type='AdamW', lr=1., weight_decay=0.5))
    assert [line.split()[2] for line in lines] == ['weight_decay=0.01', 'another']
    lines.clear()
    run(6, resume=True)
    assert len(lines) == 1 and 'nothing is left' in lines[0]
    for more in (dict(optimizer=dict(type='SGD', lr=1.)), dict(groups=False)):
        with pytest.raises(ValueError, match='resume: optim_wrapper'):
            run(12, resume=True, **more)


@pytest.mark.parametrize('schedulers', [
    None, [], [dict(type='PolyLR')], dict(type='PolyLR', power=0.9)])
def test_a_run_that_only_loads_weights_is_left_alone(schedulers):
    hook = ResumedScheduleHook()
    hook.after_load_checkpoint(SimpleNamespace(param_schedulers=schedulers), {})
    hook.before_train(None)


def test_cca_that_has_decayed_stays_so_and_is_told(monkeypatch):
    lines = []
    monkeypatch.setattr(mixing_schedule_hook, 'print_log', lambda line, **_: lines.append(line))
    hook, model = MixingScheduleHook((0.5, 0.9)), SCHEMEformer(TINY)
    step(hook, model, 59, 100)
    step(hook, model, 60, 100)
    assert not lines
    step(hook, model, 61, 200)
    assert len(lines) == 1 and '0.725' in lines[0] and 'never raises' in lines[0]
