"""The default runtime waits for the device when it writes the log, not in every iteration."""
import sys
from types import SimpleNamespace

import pytest
import torch
from mmengine import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mmscheme.engine.hooks.device_values import read
from mmscheme.engine.hooks.runtime_info_hook import RuntimeInfoHook
from mmscheme.layers import SCHEMEMixer
from tests.utils import REPOSITORY

LENGTH, INTERVAL = 25, 10
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
# The methods of a tensor that wait for the device.
READS = ('item', 'tolist', 'numpy', 'cpu', '__bool__', '__float__', '__int__', 'nonzero')


class Net(BaseModel):

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
        self.mixers = nn.Sequential(SCHEMEMixer(8, 32, (2, 2)), SCHEMEMixer(8, 32, (2, 2)))

    def forward(self, inputs, data_samples=None, mode='loss'):
        x = self.mixers(self.norm(inputs))
        return dict(loss_a=x.square().mean(), loss_b=x.abs().mean(), acc=x.mean())


class Watch(Hook):
    """Note the iterations in which code of hooks reads a tensor."""

    priority = 'HIGHEST'

    def __init__(self, monkeypatch):
        self.iteration = 0
        self.seen = {}
        for name in READS:
            monkeypatch.setattr(torch.Tensor, name, self.noting(getattr(torch.Tensor, name)))

    def noting(self, method):

        def call(*args, **kwargs):
            frame = sys._getframe(1)
            while frame and '/torch/' in frame.f_code.co_filename:
                frame = frame.f_back
            # Not torch's optimizers and our operators for CPUs, which read numbers of the CPU.
            if frame and any(part in frame.f_code.co_filename for part in (
                    '/mmscheme/engine/', '/mmscheme/layers/', '/mmengine/hooks/',
                    '/mmengine/logging/')):
                self.seen.setdefault(self.iteration, f"{frame.f_code}")
            return method(*args, **kwargs)

        return call

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.iteration = runner.iter + 1
        if DEVICE == 'cuda':
            reads = self.iteration % INTERVAL == 0 or self.iteration == LENGTH
            torch.cuda.set_sync_debug_mode('default' if reads else 'error')


def train(work_dir, watch=None, **hooks):
    torch.manual_seed(0)
    runtime = Config.fromfile(REPOSITORY / 'configs' / '_base_' / 'default_runtime.py')
    runtime.default_hooks.logger.interval = INTERVAL
    runtime.default_hooks.checkpoint.update(by_epoch=False, interval=1000, save_last=False)
    runtime.default_hooks.update(hooks)
    runner = Runner(
        model=Net(), work_dir=str(work_dir), experiment_name=str(work_dir),
        train_dataloader=DataLoader(torch.randn(LENGTH, 8, 4, 4, device=DEVICE), 1,
                                    collate_fn=lambda batch: dict(inputs=torch.stack(batch))),
        train_cfg=dict(type='mmscheme.IterBasedTrainLoop', max_iters=LENGTH),
        log_processor=dict(by_epoch=False),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)),
        default_hooks=runtime.default_hooks, custom_hooks=[watch] if watch else [],
        default_scope='mmengine', log_level='WARNING')
    try:
        runner.train()
    finally:
        if DEVICE == 'cuda':
            torch.cuda.set_sync_debug_mode('default')
    return runner


def test_the_default_runtime_waits_only_when_the_log_is_written(tmp_path, monkeypatch):
    watch = Watch(monkeypatch)
    train(tmp_path / 'a', watch)
    assert set(watch.seen) - {0} == {10, 20, 25}, watch.seen
    if DEVICE == 'cpu':  # the watch sees mmengine's own hook
        watch.seen.clear()
        train(tmp_path / 'b', watch, runtime_info=dict(type='RuntimeInfoHook'))
        assert set(watch.seen) == set(range(1, LENGTH + 1))


def test_the_log_has_the_values_of_all_iterations(tmp_path):
    runners = [train(tmp_path / 'a'),
               train(tmp_path / 'b', runtime_info=dict(type='RuntimeInfoHook'))]
    ours, theirs = (runner.message_hub.log_scalars for runner in runners)
    assert list(ours) == list(theirs) or set(ours) == set(theirs)
    for name in ('train/loss', 'train/loss_a', 'train/acc', 'train/lr', 'train/cca_weight'):
        assert (ours[name].data[0] == theirs[name].data[0]).all(), name
    assert len(ours['train/loss'].data[0]) == LENGTH


def test_a_checkpoint_between_two_logs_has_the_log_so_far(tmp_path):
    train(tmp_path, checkpoint=dict(type='mmscheme.CheckpointHook', by_epoch=False, interval=7))
    content = torch.load(tmp_path / 'iter_14.pth', weights_only=True)
    assert len(content['message_hub']['log_scalars']['train/loss_a']['log_history']) == 14


@pytest.mark.parametrize('values', [[], [torch.tensor(2.)], [torch.tensor([1, 2]),
                                                             torch.tensor(0.5).half()]])
def test_values_of_any_shape_and_type_are_read_in_order(values):
    assert read(values) == [x for v in values for x in v.reshape(-1).tolist()]


def test_a_loss_of_several_values_is_refused_by_name():
    hook, runner = RuntimeInfoHook(), SimpleNamespace(
        hooks=[], train_dataloader=range(5), iter=0, max_iters=100)
    hook.after_train_iter(runner, 0, None, dict(loss=torch.ones(1), lr=1))
    with pytest.raises(ValueError, match='stats: .*2'):
        hook.after_train_iter(runner, 0, None, dict(stats=torch.ones(2), loss=torch.ones(())))
