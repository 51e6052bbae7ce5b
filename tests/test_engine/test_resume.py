"""A run that was interrupted ends as the one that was not."""

import pytest
import torch
from mmengine import Config
from mmengine.hooks import Hook

from mmscheme.apis.train import build_train_runner
from tests.models import Interrupted, new_name, tiny_run, train


@pytest.fixture(autouse=True)
def no_text(monkeypatch):
    """The config in checkpoints and logs, whose layout takes as long as the rest."""
    monkeypatch.setattr(Config, 'pretty_text', '')


def differences(a, b, path=''):
    """The places where two nested containers of tensors differ in any bit."""
    if isinstance(a, dict):
        assert set(a) == set(b), path
        for key in a:
            yield from differences(a[key], b[key], f'{path}.{key}')
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b)):
            yield from differences(x, y, f'{path}.{i}')
    elif not (torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b):
        yield path


@pytest.mark.slow
@pytest.mark.parametrize('task, interrupts', [
    ('upernet', [(0, 7), (2, 5)]), ('cls', [(0, 11)]), ('mask_rcnn', [(1, 5)])])
def test_interrupted_run_ends_with_the_same_bits(scenes, tmp_path, task, interrupts):
    whole = train(tiny_run(task, scenes, tmp_path / 'whole'))
    keys = ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers')
    for workers, interrupt in interrupts:
        cfg = tiny_run(task, scenes, tmp_path / f'parts {workers}', workers)
        own = task == 'cls'
        train(cfg, interrupt, own)
        resumed = train(cfg, resume=f'{cfg.work_dir}/own.pth' if own else 'auto')
        assert not list(differences({k: whole[k] for k in keys}, {k: resumed[k] for k in keys}))
        assert whole['meta']['iter'] == resumed['meta']['iter'] > interrupt


@pytest.mark.slow
def test_a_validation_that_was_due_comes_first_and_the_seed_of_the_run_goes_on(scenes, tmp_path):
    """A run without a seed of its own, of a stock loop, ended while it validated."""
    options = {'train_cfg.max_iters': 4, 'train_cfg.val_interval': 3, 'randomness': {},
               'default_hooks.checkpoint.save_best': 'mIoU',
               'train_cfg.type': 'IterBasedTrainLoop',
               'default_hooks.checkpoint.type': 'CheckpointHook'}
    cfg = tiny_run('upernet', scenes, tmp_path, **options)
    validated, orders = [], []

    class Watch(Hook):
        """Notes validations and the samples of each iteration."""

        def __init__(self, end):
            self.end = end

        def before_val(self, runner):
            if self.end:
                raise Interrupted
            validated.append(runner.iter)

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            orders.append((runner.iter, runner.seed,
                           [s.img_path for s in data_batch['data_samples']]))

    for resume, end in ((None, False), (None, True), ('auto', False)):
        run = Config(cfg._cfg_dict.to_dict())
        run.work_dir = str(tmp_path / ('whole' if not (end or resume) else 'parts'))
        if not resume and end:
            run.randomness = dict(seed=orders[0][1])  # as drawn in the first run
        run.experiment_name = new_name()
        runner = build_train_runner(run, resume)
        runner.register_hook(Watch(end))
        if end:
            with pytest.raises(Interrupted):
                runner.train()
        else:
            runner.train()
    assert validated == [3, 4, 3, 4]
    assert orders[4:7] == orders[:3] and orders[7:] == orders[3:4]
    best = {p.name for p in (tmp_path / 'parts').glob('best_*')}
    assert best == {p.name for p in (tmp_path / 'whole').glob('best_*')} and len(best) == 1


@pytest.mark.slow
def test_the_rest_of_an_epoch_in_batches_of_another_size(scenes, tmp_path):
    cfg = tiny_run('mask_rcnn', scenes, tmp_path, **{'default_hooks.checkpoint.interval': 1})
    train(cfg, interrupt=4)  # 12 images in batches of 2
    cfg.train_dataloader.batch_size = 4
    cfg.experiment_name = 'other batches'
    images = []

    class Watch(Hook):
        """Notes the images of the rest of the epoch, and where the run says it is."""

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.epoch == 0:
                assert (runner.iter, runner.max_iters, batch_idx) == (2, 6, 2)
                images.extend(s.img_path for s in data_batch['data_samples'])

    runner = build_train_runner(cfg, resume='auto')
    runner.register_hook(Watch())
    runner.train()
    dataset = runner.train_dataloader.dataset
    sampler = runner.train_dataloader.batch_sampler.sampler
    sampler.set_epoch(0)
    assert images == [dataset.get_data_info(i)['img_path'] for i in list(sampler)[8:]]
    assert runner.iter == 6
