"""alpha in the logs, the line at the end, the plot, and both ways of testing a checkpoint."""
import json
import logging
import re
import sys
from types import SimpleNamespace

import cv2
import pytest
import torch
from torch import nn

from mmscheme.analysis.cca_plot import read_mixing_log
from mmscheme.engine.hooks import mixing_weights_hook
from mmscheme.engine.hooks.mixing_weights_hook import describe_cca_weights, find_mixers, shorten
from mmscheme.layers import SCHEMEMixer
from mmscheme.registry import HOOKS
from tests.commands import load_tool
from tests.utils import REPOSITORY, run

main = load_tool('analysis_tools/plot_mixing_weights').main

ITERATIONS = 6


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    """A small flagship whose blocks count from the start: no tiny layer scale."""
    path = tmp_path_factory.mktemp('config') / 'small.py'
    path.write_text(
        f"_base_ = '{REPOSITORY}/configs/upernet_scheme_s_demo.py'\n"
        'model = dict(\n'
        '    backbone=dict(\n'
        '        arch=dict(_delete_=True, depths=(1, 2, 1, 1), embed_dims=(16, 32, 64, 128),\n'
        '                  layer_scale_init=1.), drop_path_rate=0.),\n'
        '    decode_head=dict(in_channels=[16, 32, 64, 128], channels=16),\n'
        '    auxiliary_head=dict(in_channels=64, channels=16))\n'
        'train_dataloader = dict(batch_size=4, num_workers=0)\n'
        'val_dataloader = dict(num_workers=0)\n'
        'test_dataloader = dict(num_workers=0)\n'
        f'train_cfg = dict(max_iters={ITERATIONS}, val_interval=100)\n'
        'default_hooks = dict(logger=dict(interval=2))\n'
        'randomness = dict(seed=0)\n'
        "vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]\n"
        'visualizer = dict(vis_backends=vis_backends)\n')
    return path


def train(config, scenes, work_dir, decay):
    return run(sys.executable, 'tools/train.py', config, '--data-root', scenes, '--work-dir',
               work_dir, '--cfg-options', f'default_hooks.mixing_schedule.decay={decay}')


@pytest.fixture(scope='module')
def free(config, scenes, tmp_path_factory):
    """Work folder and log of a training that leaves alpha to itself."""
    work_dir = tmp_path_factory.mktemp('free')
    return work_dir, train(config, scenes, work_dir, None)


@pytest.fixture(scope='module')
def scheduled(config, scenes, tmp_path_factory):
    """The same with the shipped schedule."""
    work_dir = tmp_path_factory.mktemp('scheduled')
    return work_dir, train(config, scenes, work_dir, '(0.5,0.9)')


@pytest.mark.slow
def test_every_backend_gets_alpha_of_every_block(free):
    work_dir, log = free
    weights = torch.load(work_dir / f'iter_{ITERATIONS}.pth', weights_only=True)['state_dict']
    logits = {k: v for k, v in weights.items() if k.endswith('alpha_logit')}
    scalars, = work_dir.glob('*/vis_data/scalars.json')
    rows = [json.loads(line) for line in scalars.read_text().splitlines()]
    rows = [row for row in rows if any(k.startswith('alpha/') for k in row)]
    steps = [row['step'] for row in rows]
    assert steps == [2, 3, 4, 6]  # the log's interval, and the end of an epoch
    assert len(logits) == 5 == len(rows[-1]) - 1
    for key, logit in logits.items():
        name = 'alpha/' + key.removesuffix('.alpha_logit')
        assert rows[-1][name] == pytest.approx(torch.sigmoid(logit).item(), abs=1e-6)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(scalars.parent)).Reload()
    for name in rows[-1]:
        if name != 'step':
            assert [e.step for e in events.Scalars(name)] == steps
    mean = 1 - sum(torch.sigmoid(v).item() for v in logits.values()) / 5
    shown = [float(v) for v in re.findall(r'cca_weight: ([\d.]+)', log)]
    assert len(shown) == 3 and shown[-1] == pytest.approx(mean, abs=1e-3)


@pytest.mark.slow
def test_the_end_of_training_says_whether_the_branch_has_decayed(free, scheduled):
    assert re.search(r'CCA has NOT decayed in 5 of 5 blocks .*: 0.0 0.\d{4}, 1.0 0.\d{4}', free[1])
    assert 'CCA has decayed: its weight is 0 in all 5 blocks' in scheduled[1]


@pytest.mark.slow
def test_plot_of_two_runs(free, scheduled, tmp_path, capsys):
    main([str(free[0]), str(scheduled[0]), '--out', str(tmp_path / 'plots' / 'w.png')])
    shown = capsys.readouterr().out
    assert re.search(r'CCA weight of 5 blocks at iteration 6: 0.0000 to 0.0000', shown)
    picture = cv2.imread(str(tmp_path / 'plots' / 'w.png'))
    assert picture.shape[1] > 2 * picture.shape[0]  # side by side
    assert len({tuple(p) for p in picture.reshape(-1, 3)}) > 10


def test_a_resumed_run_is_read_as_one(tmp_path):
    for run_name, steps in (('20260101_000000', (1, 2, 3)), ('20260102_000000', (3, 4))):
        folder = tmp_path / run_name / 'vis_data'
        folder.mkdir(parents=True)
        folder.joinpath('scalars.json').write_text(''.join(
            json.dumps({'alpha/a': s / 10 + (run_name[7] == '2') / 100, 'step': s}) + '\n'
            + json.dumps({'loss': 1., 'step': s}) + '\n' for s in steps))
    log = read_mixing_log(tmp_path)
    assert log.steps == [1, 2, 3, 4]
    assert log.weights['a'] == pytest.approx([0.9, 0.8, 0.69, 0.59])
    assert read_mixing_log(tmp_path / '20260101_000000').steps == [1, 2, 3]


def test_errors_of_the_plot(tmp_path, capsys):
    (tmp_path / 'empty.json').write_text('{"loss": 1.0, "step": 2}\n')
    (tmp_path / 'text.json').write_text('Iter(train)\n')
    (tmp_path / 'folder').mkdir()
    for name, message in (('no', 'log not found'), ('empty.json', 'empty.json: no CCA weights'),
                          ('text.json', 'line 1: expected one JSON object'),
                          ('folder', 'no vis_data/scalars.json')):
        with pytest.raises(SystemExit) as status:
            main([str(tmp_path / name), '--out', str(tmp_path / 'x.png')])
        error = capsys.readouterr().err
        assert status.value.code == 2 and message in error and error.count('\n') == 1
    assert not (tmp_path / 'x.png').exists()


def keep_cca(config, checkpoint, scenes, work_dir, **kwargs):
    log = run(sys.executable, 'tools/test.py', config, checkpoint, '--data-root', scenes,
              '--work-dir', work_dir, '--keep-cca', **kwargs)
    return log, {name: [float(v) for v in values] for name, *values in re.findall(
        r'^(aAcc|mIoU|mAcc) +([\d.]+) +([\d.]+) +([+-][\d.]+)$', log, re.M)}


@pytest.mark.slow
def test_keeping_cca_shows_a_difference_on_a_barely_trained_model(config, free, scenes, tmp_path):
    log, metrics = keep_cca(config, free[0] / f'iter_{ITERATIONS}.pth', scenes, tmp_path)
    assert set(metrics) == {'aAcc', 'mIoU', 'mAcc'}
    dropped, kept, difference = metrics['aAcc']
    assert dropped != kept and difference == pytest.approx(kept - dropped, abs=1e-3)
    assert 'CCA has NOT decayed in 5 of 5' in log.splitlines()[-1]
    # What the config's own switch gives.
    alone = run(sys.executable, 'tools/test.py', config, free[0] / f'iter_{ITERATIONS}.pth',
                '--data-root', scenes, '--work-dir', tmp_path / 'alone', '--cfg-options',
                'model.backbone.keep_cca=True')
    assert f'aAcc: {kept:.4f}' in alone and f'aAcc: {dropped:.4f}' in log


@pytest.mark.slow
def test_keeping_cca_shows_none_where_alpha_is_1(config, scheduled, scenes, tmp_path):
    log, metrics = keep_cca(config, scheduled[0] / f'iter_{ITERATIONS}.pth', scenes, tmp_path)
    assert set(metrics) == {'aAcc', 'mIoU', 'mAcc'}
    assert all(dropped == kept and difference == 0
               for dropped, kept, difference in metrics.values())
    assert 'dropping it changes nothing' in log.splitlines()[-1]


@pytest.mark.slow
def test_keeping_what_is_not_there_is_an_error(config, free, scenes, tmp_path):
    message = run(sys.executable, 'tools/test.py', config, free[0] / f'iter_{ITERATIONS}.pth',
                  '--data-root', scenes, '--work-dir', tmp_path, '--keep-cca', '--cfg-options',
                  'model.backbone.cca=False', fails=True)
    assert 'error: --keep-cca: the model has no SCHEME mixer' in message.splitlines()[-1]


def test_mixers_are_found_in_any_model():
    model = nn.ModuleDict(dict(a=nn.Sequential(SCHEMEMixer(8), nn.GELU()), b=SCHEMEMixer(8),
                               dense=SCHEMEMixer(8, cca=False)))
    assert list(find_mixers(model)) == ['a.0', 'b']
    model['b'].lower_cca_factor(0.)
    text = describe_cca_weights(find_mixers(model))
    assert text.startswith('CCA has NOT decayed in 1 of 2 blocks') and 'a.0 0.5000' in text
    model['a'][0].lower_cca_factor(0.01)
    assert 'is below 0.01 in all 2 blocks' in describe_cca_weights(find_mixers(model))
    assert shorten(['m.stages.0.x', 'm.stages.12.x']) == ['0', '12']
    assert shorten(['m']) == ['m'] and shorten(['a.x', 'b']) == ['a.x', 'b']


def test_a_test_that_drops_what_counts_warns(monkeypatch):
    told = []
    monkeypatch.setattr(mixing_weights_hook, 'print_log', lambda line, **kwargs: told.append(
        (line, kwargs['level'])))
    hook, mixer = HOOKS.build(dict(type='mmscheme.MixingWeightsHook')), SCHEMEMixer(8)
    for change, lines in ((lambda: None, 1), (lambda: setattr(mixer, 'keep_cca', True), 0),
                          (lambda: setattr(mixer, 'keep_cca', False), 1),
                          (lambda: mixer.lower_cca_factor(0.), 0)):
        change()
        told.clear()
        hook.before_test(SimpleNamespace(model=nn.Sequential(mixer)))
        assert len(told) == lines
        assert all('NOT decayed' in line and level == logging.WARNING for line, level in told)


def test_wrong_interval_is_named():
    with pytest.raises(ValueError, match='interval: expected a whole number >= 1'):
        HOOKS.build(dict(type='mmscheme.MixingWeightsHook', interval=0))
