"""Bad data in the middle of a run: the file is named, or the run goes on and counts."""
import json
import re

import cv2
import numpy as np
import pytest
import torch
from mmengine import Config
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner

from mmscheme.datasets.guarded import describe_bad_data
from mmscheme.datasets.scenes import write_scenes
from mmscheme.utils.user_errors import BadDataError
from tests.bad_inputs import Box, halve
from tests.commands import load_tool


@pytest.fixture(scope='module')
def few_scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp('few') / 'scenes', 6, 2, (48, 64))


@pytest.fixture
def box(few_scenes, tmp_path):
    return Box(tmp_path, few_scenes)


def train(box, task, *options, workers=2, iterations=None):
    """Trains over all images without looking at them first."""
    length = [f'train_cfg.max_iters={iterations or 3}'] if task == 'seg' else []
    load_tool('train').main(box.train(
        task, f'train_dataloader.num_workers={workers}', *length, *options,
        flags=('--no-preflight', )))


def stopped(capsys, *arguments, **settings):
    with pytest.raises(SystemExit) as stop:
        train(*arguments, **settings)
    assert stop.value.code == 2
    line, = (line for line in capsys.readouterr().err.splitlines() if line.startswith('error: '))
    return line


def damage(box, task):
    """One bad image of a task."""
    if task == 'seg':
        path = box.image()
    elif task == 'det':
        path = box.scenes / 'train2017' / 'scene_00001.jpg'
    else:
        path = sorted((box.scenes / 'objects' / 'train').rglob('*.jpg'))[0]
    path.unlink()
    path.write_bytes(b'')
    return path


def guarded(box):
    cfg = Config.fromfile(box.config('seg')).train_dataloader.dataset
    init_default_scope('mmseg')
    cfg.update(of=cfg.type, type='mmscheme.GuardedDataset', data_root=str(box.scenes))
    return DATASETS.build(cfg)


@pytest.mark.slow
@pytest.mark.parametrize('task, workers', [('seg', 2), ('det', 0), ('cls', 1)])
def test_a_run_stops_and_names_the_file(task, workers, box, capsys):
    path = damage(box, task)
    line = stopped(capsys, box, task, workers=workers)
    assert line.startswith(f'error: bad data: {path} (')
    assert "on_bad_data='skip' goes on without it" in line


@pytest.mark.slow
@pytest.mark.parametrize('task, workers', [('seg', 2), ('cls', 0)])
def test_a_run_goes_on_and_reports(task, workers, box, capsys):
    path = damage(box, task)
    train(box, task, 'on_bad_data=skip', workers=workers)
    entries = [json.loads(line) for line in
               (box.folder / 'work' / 'bad_data.jsonl').read_text().splitlines()]
    assert {e['file'] for e in entries} == {str(path)}
    lines = describe_bad_data(str(box.folder / 'work' / 'bad_data.jsonl'))
    assert lines[0].startswith(f'1 files are bad data, {len(entries)} samples were replaced')
    assert lines[1].startswith(f'{path}: {len(entries)} times (')
    log = next((box.folder / 'work').glob('*/*.log')).read_text()
    assert lines[0] in log and lines[1] in log


@pytest.mark.slow
def test_too_many_bad_files_stop_it_anyway(box, capsys):
    for i in range(4):
        halve(box.image(name=f'scene_{i:05d}'))
    line = stopped(capsys, box, 'seg', 'on_bad_data=skip', 'max_bad_data=2', iterations=20)
    # The other of two workers may find the fourth before the first has counted.
    assert re.match(r'error: [34] bad files, more than max_bad_data=2: .*scene_0000\d\.jpg', line)


@pytest.mark.slow
def test_a_truncated_image_that_opencv_takes_is_bad_data(box):
    halve(box.image())
    assert cv2.imread(str(box.image())) is not None
    with pytest.raises(BadDataError, match=f'{box.image()}: truncated file'):
        guarded(box)[1]


@pytest.mark.slow
def test_validation_data_are_never_skipped(box, capsys):
    path = box.scenes / 'images' / 'validation' / 'scene_00000.jpg'
    path.write_bytes(b'')
    line = stopped(capsys, box, 'seg', 'on_bad_data=skip', 'train_cfg.val_interval=1',
                   'default_hooks.checkpoint.interval=1', workers=0)
    assert str(path) in line
    assert (box.folder / 'work' / 'iter_1.pth').exists()  # what was trained before is kept


def test_a_mask_of_another_size_is_bad_data(box):
    mask = box.image('annotations')
    labels = cv2.imread(str(mask), -1)
    cv2.imwrite(str(mask), labels[:20])
    dataset = guarded(box)
    with pytest.raises(BadDataError, match=rf'bad data: {box.image()} \(.*{mask}\)'):
        for _ in range(20):
            dataset[1]
    assert dataset[2] is not None


@pytest.mark.parametrize('workers', [0, 2])
def test_batches_are_the_same_with_a_guard(workers, box):
    """Order, crops, flips and colours, to the last bit."""
    batches = []
    for guarded in (False, True):
        cfg = Config.fromfile(box.config('seg'))
        init_default_scope('mmseg')
        loader = cfg.train_dataloader
        loader.update(num_workers=workers, persistent_workers=False)
        loader.dataset.data_root = str(box.scenes)
        if guarded:
            loader.dataset.update(of=loader.dataset.type, type='mmscheme.GuardedDataset',
                                  on_bad_data='skip')
        torch.manual_seed(0)
        np.random.seed(0)
        loaded = iter(Runner.build_dataloader(loader, seed=3))
        batches.append([next(loaded) for _ in range(4)])
    for a, b in zip(*batches):
        assert all(torch.equal(x, y) for x, y in zip(a['inputs'], b['inputs']))
        for x, y in zip(a['data_samples'], b['data_samples']):
            assert x.img_path == y.img_path
            assert torch.equal(x.gt_sem_seg.data, y.gt_sem_seg.data)


@pytest.mark.parametrize('settings, expected', [
    (dict(on_bad_data='ignore'), "on_bad_data: expected one of .* found 'ignore'"),
    (dict(max_bad_data=-1), 'max_bad_data: expected a whole number >= 0'),
    (dict(on_bad_data='skip', test_mode=True), 'only in training')])
def test_settings(settings, expected, box):
    init_default_scope('mmseg')
    with pytest.raises(ValueError, match=expected):
        DATASETS.build(dict(type='mmscheme.GuardedDataset', of='mmscheme.ScenesDataset',
                            data_root=str(box.scenes), pipeline=[], data_prefix=dict(
                                img_path='images/training',
                                seg_map_path='annotations/training'), **settings))
