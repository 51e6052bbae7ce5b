"""Two processes against one: the same gradients, and the death of one of them."""
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from mmscheme.layers import SCHEMEMixer
from tests.models import tiny_run
from tests.utils import REPOSITORY, free_port, run, train_command

ONE_CORE = dict(OMP_NUM_THREADS='1')


def distance(a, b):
    """Of two sets of gradients, relative to the first."""
    return float(sum((a[n] - b[n]).square().sum() for n in a).sqrt()
                 / sum(a[n].square().sum() for n in a).sqrt())


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(scenes, tmp_path):
    run(sys.executable, 'tools/launch.py', '--nproc_per_node=2',
        f'--master_port={free_port()}', '-m', 'tests.gradients', tmp_path, scenes, 'small', 'cls',
        'upernet', 'mask_rcnn', 'distill', **ONE_CORE)
    for task in ('cls', 'upernet', 'mask_rcnn', 'distill'):
        found = torch.load(tmp_path / f'{task}.pth')
        assert distance(found['mean'], found['shared']) < 1e-5, task
        # A detector's losses are means over what a process has sampled, those of distilled
        # features have the variance of its images, so the mean of two processes is not that of
        # all images; the other losses are means over images.
        assert (distance(found['whole'], found['shared']) < 1e-5) == (
            task in ('cls', 'upernet')), task


def test_every_parameter_has_a_part_without_objects_and_without_cca(scenes):
    cfg = tiny_run('mask_rcnn', scenes, 'none')
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    batch = next(iter(Runner.build_dataloader(cfg.train_dataloader)))
    for sample in batch['data_samples']:
        sample.gt_instances = sample.gt_instances[:0]
    for mixer in model.modules():
        if isinstance(mixer, SCHEMEMixer):
            mixer.retire_cca()
    losses = model.train()(**model.data_preprocessor(batch, True), mode='loss')
    model.parse_losses(losses)[0].backward()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


def ranks(work):
    """The processes of a run by rank, from the environment that they were started with."""
    found = {}
    for process in Path('/proc').glob('[0-9]*'):
        try:
            if str(work).encode() not in (process / 'cmdline').read_bytes():
                continue
            rank = re.search(rb'\0RANK=(\d+)\0', b'\0' + (process / 'environ').read_bytes())
        except OSError:
            continue
        if rank:
            found.setdefault(int(rank.group(1)), int(process.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available() or not sys.platform.startswith('linux'),
                    reason='tests two processes on the CPU, found in /proc')
def test_a_killed_process_takes_the_others_along_and_the_run_resumes(scenes, tmp_path):
    work = tmp_path / 'killed'
    options = ['default_hooks.checkpoint.interval=1', 'train_dataloader.num_workers=1']
    _, _, config, *arguments = train_command(scenes, work, iterations=500, options=options)
    log = tmp_path / 'log.txt'
    with log.open('w') as f:
        launcher = subprocess.Popen(
            ['tools/dist_train.sh', config, '2', *map(str, arguments)], cwd=REPOSITORY, stdout=f,
            stderr=subprocess.STDOUT, env={**os.environ, **ONE_CORE, 'PYTHON': sys.executable,
                                           'PORT': free_port()})
    start = time.monotonic()
    while not (work / 'last_checkpoint').exists():
        assert launcher.poll() is None and time.monotonic() - start < 300, log.read_text()[-3000:]
        time.sleep(0.05)
    pids = ranks(work)
    os.kill(pids[1], signal.SIGKILL)
    assert launcher.wait(60) == 1
    assert not Path(f'/proc/{pids[0]}').exists()
    errors = [line for line in log.read_text().splitlines() if line.startswith('error:')]
    assert 'Traceback' not in log.read_text()
    line, = errors
    assert line.startswith(f'error: process 1 (pid {pids[1]}) was ended by SIGKILL after')
    # One process goes on with the images that are left, and says what has changed.
    saved = int(re.search(r'iter_(\d+)', (work / 'last_checkpoint').read_text()).group(1))
    _, _, config, *arguments = train_command(scenes, work, '--resume', iterations=saved + 1)
    log = run(sys.executable, 'tools/train.py', config, *arguments, **ONE_CORE)
    assert ('resumed with 1 process of 2 images per iteration, the checkpoint has 2 processes of '
            '2: the order of the images continues, and 0 of them are seen again' in log)
    assert f'[{saved + 1}/{saved + 1}]' in log
