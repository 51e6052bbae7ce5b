"""Whole runs by the command lines: train, test, be killed, resume, several processes."""
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from mmscheme.datasets.scenes import PALETTE
from tests.commands import execute, load_tool
from tests.utils import DEMO, REPOSITORY, SMALL, readme_names, run, train_command

demo = load_tool('demo')


@pytest.fixture(scope='module')
def trained(scenes, tmp_path_factory):
    """Work folder of a short training."""
    work_dir = tmp_path_factory.mktemp('trained')
    log = run(*train_command(scenes, work_dir))
    assert 'mIoU' in log and re.search(r'Iter\(train\) \[4/4\].*eta', log)
    return work_dir


def test_checkpoints_are_read_by_torch_with_its_safe_default(trained):
    checkpoint = torch.load(trained / 'iter_4.pth', weights_only=True)
    assert {'meta', 'state_dict', 'message_hub', 'optimizer'} <= set(checkpoint)
    factors = {float(v) for k, v in checkpoint['state_dict'].items() if 'cca_factor' in k}
    assert factors == {0.}  # the schedule has ended


def test_test_reports_miou_and_draws_and_stores(trained, scenes, tmp_path):
    log = run(sys.executable, 'tools/test.py', DEMO, trained / 'iter_4.pth', '--data-root', scenes,
              '--work-dir', tmp_path / 'w', '--show-dir', tmp_path / 'pictures', '--out',
              tmp_path / 'masks', '--cfg-options', *SMALL)
    metrics = json.loads(next((tmp_path / 'w').glob('*/*.json')).read_text())
    assert f'mIoU: {metrics["mIoU"]:.4f}' in log
    assert len(list((tmp_path / 'pictures').iterdir())) == 4
    # The stored masks are the predictions: their score is the one reported.
    intersection, union = np.zeros(9), np.zeros(9)
    for path in (scenes / 'annotations' / 'validation').glob('*.png'):
        truth = cv2.imread(str(path), -1).astype(int) - 1
        predicted = cv2.imread(str(tmp_path / 'masks' / path.name), -1)
        # Written for ADE20K's server, with ids from 1, where label 0 was reduced.
        predicted = predicted.astype(int) - int(predicted.max() > 8 or predicted.min() > 0)
        for c in range(9):
            a, b = (truth == c), (predicted == c) & (truth >= 0)
            intersection[c] += (a & b).sum()
            union[c] += (a | b).sum()
    scored = union > 0
    assert 100 * (intersection[scored] / union[scored]).mean() == pytest.approx(
        metrics['mIoU'], abs=0.02)
    picture = cv2.imread(str(tmp_path / 'pictures' / 'scene_00000.png'))
    truth = cv2.imread(str(scenes / 'annotations' / 'validation' / 'scene_00000.png'), -1)
    scale = picture.shape[1] // (3 * 80)
    panel = picture[22:22 + 64 * scale:scale, 80 * scale:2 * 80 * scale:scale]
    image = cv2.imread(str(scenes / 'images' / 'validation' / 'scene_00000.jpg'))
    colours = np.array([(0, 0, 0), *PALETTE])[:, ::-1][truth]
    expected = np.where(truth[..., None] > 0, 0.25 * image + 0.75 * colours, 0)
    assert np.abs(panel - expected).max() <= 1


@pytest.mark.slow
def test_readme_inferencer(trained, scenes, tmp_path):
    config, image = tmp_path / 'mine.py', scenes / 'images' / 'validation' / 'scene_00001.jpg'
    config.write_text(f"_base_ = '{REPOSITORY / DEMO}'\nmodel = dict(\n"
                      '    decode_head=dict(channels=16), auxiliary_head=dict(channels=16))\n')
    names = readme_names('segmentation inferencer', {
        'configs/upernet_scheme_s_demo.py': config,
        'image.jpg': image,
        'work_dirs/upernet_scheme_s_demo/iter_300.pth': trained / 'iter_4.pth',
        'pictures': tmp_path,
    })
    labels = names['labels']
    assert labels.shape == (64, 80) and labels.max() < 9
    assert cv2.imread(str(tmp_path / 'vis' / image.name)).shape == (64, 80, 3)
    # The same labels as testing stores.
    run(sys.executable, 'tools/test.py', config, trained / 'iter_4.pth', '--data-root', scenes,
        '--work-dir', tmp_path / 'w', '--out', tmp_path / 'masks')
    stored = cv2.imread(str(tmp_path / 'masks' / 'scene_00001.png'), -1).astype(int)
    assert (stored - 1 == labels).mean() > 0.999  # ids from 1, as ADE20K's server wants them


@pytest.mark.slow
def test_test_time_augmentation(trained, scenes, tmp_path):
    log = run(sys.executable, 'tools/test.py', DEMO, trained / 'iter_4.pth', '--data-root', scenes,
              '--work-dir', tmp_path, '--tta', '--cfg-options', *SMALL)
    assert 'mIoU' in log


@pytest.mark.slow
def test_killed_run_resumes_where_it_was(scenes, tmp_path):
    command = train_command(scenes, tmp_path, iterations=10,
                    options=['default_hooks.checkpoint.interval=3',
                             'default_hooks.mixing_schedule.decay=(0.,1.)'])
    victim = subprocess.Popen([str(c) for c in command], cwd=REPOSITORY, text=True,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    pointer, start = tmp_path / 'last_checkpoint', time.monotonic()
    try:
        while not (pointer.exists() and pointer.read_text().endswith('.pth')):
            assert victim.poll() is None and time.monotonic() - start < 300
            time.sleep(0.05)
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    saved = int(re.search(r'iter_(\d+)', pointer.read_text()).group(1))
    log = run(*command, '--resume')
    assert f'resumed epoch: 0, iter: {saved}' in log
    done = [int(n) for n in re.findall(r'Iter\(train\) \[ *(\d+)/10\]', log)]
    assert done == list(range(saved + 1, 11))
    final = torch.load(tmp_path / 'iter_10.pth', weights_only=True)
    assert final['meta']['iter'] == 10
    history = final['message_hub']['log_scalars']['train/loss']['log_history']
    assert len(history) == 10  # those before the kill too
    assert {float(v) for k, v in final['state_dict'].items() if 'cca_factor' in k} == {0.}
    # By path, and with more iterations than before.
    log = run(*train_command(scenes, tmp_path / 'more', '--resume', tmp_path / 'iter_10.pth',
                     iterations=11, options=['default_hooks.mixing_schedule.decay=None']))
    assert 'resumed epoch: 0, iter: 10' in log and '[11/11]' in log


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='tests two processes on the CPU')
def test_two_processes(trained, scenes, tmp_path):
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = str(s.getsockname()[1])
    environment = dict(PYTHON=sys.executable, PORT=port, OMP_NUM_THREADS='1')
    _, _, _, *arguments = train_command(scenes, tmp_path / 'w', iterations=2)
    log = run('tools/dist_train.sh', DEMO, 2, *arguments, **environment)
    assert '[2/2]' in log and (tmp_path / 'w' / 'iter_2.pth').exists()
    log = run('tools/dist_test.sh', DEMO, trained / 'iter_4.pth', 2, '--data-root', scenes,
              '--work-dir', tmp_path / 't', '--show-dir', tmp_path / 'pictures', '--cfg-options',
              *SMALL, **environment)
    metrics = json.loads(next((tmp_path / 't').glob('*/*.json')).read_text())
    assert f'mIoU: {metrics["mIoU"]:.4f}' in log
    assert len(list((tmp_path / 'pictures').iterdir())) == 4


@pytest.mark.parametrize('script, usage', [
    ('dist_train.sh', 'CONFIG GPUS'), ('dist_test.sh', 'CONFIG CHECKPOINT GPUS'),
    ('slurm_train.sh', 'PARTITION JOB CONFIG WORK_DIR'),
    ('slurm_test.sh', 'PARTITION JOB CONFIG CHECKPOINT')])
def test_launch_scripts_explain_themselves(script, usage):
    assert usage in run(f'tools/{script}', fails=True)


def test_slurm_script_starts_one_task_a_gpu(tmp_path):
    fake = tmp_path / 'srun'
    fake.write_text('#!/bin/sh\necho "$@"\n')
    fake.chmod(0o755)
    shown = run('tools/slurm_train.sh', 'part', 'job', DEMO, 'w', '--amp', GPUS='4', PYTHON='py',
                PATH=f'{tmp_path}{os.pathsep}{os.environ["PATH"]}')
    assert ('-p part --job-name=job --gres=gpu:4 --ntasks=4 --ntasks-per-node=4' in shown
            and 'py -u tools/train.py' in shown and '--launcher slurm --amp' in shown)


def test_constant_miou_equals_a_loop():
    rng = np.random.default_rng(0)
    train_masks = [rng.choice(5, (6, 7), p=(0.4, 0.1, 0.1, 0.3, 0.1)) for _ in range(3)]
    test_masks = [rng.choice(5, (5, 4), p=(0.5, 0.2, 0.1, 0.2, 0)) for _ in range(2)]
    ious = []
    for c in range(1, 5):
        truth = np.concatenate([m[m > 0] == c for m in test_masks])
        predicted = np.full(truth.shape, c == 3)
        if (truth | predicted).any():
            ious.append((truth & predicted).sum() / (truth | predicted).sum())
    assert demo.constant_miou(train_masks, test_masks, 4) == pytest.approx(np.mean(ious))


@pytest.mark.slow
def test_demo_command(scenes, tmp_path, monkeypatch, capsys):

    def call(command):
        status, out, errors = execute(command, REPOSITORY)
        print(out, errors)
        return SimpleNamespace(returncode=status)

    monkeypatch.setattr(demo, 'subprocess', SimpleNamespace(run=call))
    monkeypatch.chdir(REPOSITORY)
    demo.main(['--data-root', str(scenes), '--work-dir', str(tmp_path), '--cfg-options', *SMALL,
               'train_cfg.max_iters=2', 'train_cfg.val_interval=2'])
    log = capsys.readouterr().out
    assert re.search(r'mIoU [\d.]+ after [\d.]+ minutes; predicting the most frequent', log)
    folder = Path(re.search(r'pictures \(.*\): (.*)', log).group(1))
    assert folder == tmp_path / 'pictures' and len(list(folder.glob('*.png'))) == 4
    assert '$ python -m mmscheme train configs/upernet_scheme_s_demo.py' in log


def test_demo_fails_below_a_wanted_score(scenes, tmp_path, monkeypatch, capsys):
    def pretend(tool, *arguments):
        (tmp_path / 'run').mkdir(exist_ok=True)
        (tmp_path / 'last_checkpoint').write_text('x.pth')
        (tmp_path / 'run' / 'x.json').write_text('{"mIoU": 40.0}')

    monkeypatch.setattr(demo, '_run', pretend)
    arguments = ['--data-root', str(scenes), '--work-dir', str(tmp_path)]
    demo.main([*arguments, '--min-miou', '39'])
    with pytest.raises(SystemExit):
        demo.main([*arguments, '--min-miou', '41'])
    assert 'error: mIoU 40.00, expected at least 41.00' in capsys.readouterr().err
