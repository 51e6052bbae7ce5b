"""Bad input: one clear line and a non-zero exit, before training starts."""
import re
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.runner import TestLoop as MMEngineTestLoop
from mmseg.datasets import RandomCrop
from mmseg.models import UPerHead

from mmscheme.checks import run
from mmscheme.datasets.scenes_dataset import ScenesDataset
from mmscheme.deploy.runtime import load_exported
from mmscheme.engine.runners import IterBasedTrainLoop
from mmscheme.utils.checkpoint_io import find_weights, load_checkpoint
from mmscheme.utils.user_errors import is_deliberate, user_errors
from tests.commands import load_tool
from tests.utils import REPOSITORY, RunsCode

DEMO = str(REPOSITORY / 'configs' / 'upernet_scheme_s_demo.py')
train_api, test_api = load_tool('train'), load_tool('test')
FLAGSHIP = str(REPOSITORY / 'configs' / 'upernet_scheme_s_ade20k.py')


class Started(BaseException):
    """The loop of training or testing would run now."""


@pytest.fixture
def own_scenes(scenes, tmp_path):
    """A copy of the scenes that a test may damage."""
    return shutil.copytree(scenes, tmp_path / 'own')


@pytest.fixture(autouse=True)
def never_train(monkeypatch):
    def trained(self):
        raise Started

    monkeypatch.setattr(run, 'rehearse', lambda *args: None)  # it would train
    monkeypatch.setattr(IterBasedTrainLoop, 'run', trained)
    monkeypatch.setattr(MMEngineTestLoop, 'run', trained)


def error_of(main, capsys, *arguments):
    line, = errors_of(main, capsys, *arguments)
    return line


def errors_of(main, capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    assert stop.value.code == 2
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith('error:')]


def traceback_of(line):
    return Path(re.search(r'\(traceback: (.*)\)', line)[1]).read_text()


@pytest.mark.parametrize('options, expected', [
    (['model.backbone.arch=s13'],
     "error: arch: expected one of ['m36', 's12', 's24', 's36'] or a dict, "
     "found 's13'"),
    (['model.backbone.groups=(3,4)'],
     "error: stage 0 of arch 's12': embed_dims=64 does not divide into groups=3; "
     '64 divides by [1, 2, 4, 8, 16, 32, 64]'),
    (['model.backbone.expantion=8'], "expantion: unknown argument of SCHEMEformer"),
    (['model.decode_head.chanels=8'], "unexpected keyword argument 'chanels'"),
    (['model.backbone.type=mmscheme.Schemeformer'], 'mmscheme.Schemeformer is not in'),
    (['default_hooks.mixing_schedule.decay=(0.9,0.1)'],
     'decay: expected (start, end) with 0 <= start <= end <= 1'),
    (['train_cfg.max_iter=3'], "unexpected keyword argument 'max_iter'"),
])
def test_config(options, expected, scenes, tmp_path, capsys):
    line = error_of(train_api.main, capsys, DEMO, '--data-root', scenes, '--work-dir', tmp_path,
                    '--cfg-options', *options)
    assert expected in line


def test_missing_data_root(tmp_path, capsys):
    line = error_of(train_api.main, capsys, FLAGSHIP, '--work-dir', tmp_path, '--data-root',
                    tmp_path / 'no')
    assert line == (f'error: data root not found: {tmp_path}/no (set it with --data-root DIR or '
                    'data_root in the config)')
    line = error_of(train_api.main, capsys, DEMO, '--data-root', tmp_path / 'no')
    assert f'`python -m mmscheme make_scenes {tmp_path}/no` writes it' in line


def test_missing_and_empty_folders(own_scenes, tmp_path, capsys):
    arguments = [DEMO, '--data-root', own_scenes, '--work-dir', tmp_path / 'w']
    images = own_scenes / 'images' / 'training'
    for image in images.iterdir():
        image.unlink()
    assert error_of(train_api.main, capsys, *arguments) == f'error: no images *.jpg in {images}'
    images.rmdir()
    assert f'error: folder not found: {images}' in error_of(train_api.main, capsys, *arguments)


def test_mask_without_image_and_image_without_mask(own_scenes, tmp_path, capsys):
    arguments = [DEMO, '--data-root', own_scenes, '--work-dir', tmp_path / 'w']
    image = own_scenes / 'images' / 'validation' / 'scene_00002.jpg'
    mask = own_scenes / 'annotations' / 'validation' / 'scene_00002.png'
    moved = image.rename(image.with_name('moved.jpg'))
    lines = errors_of(train_api.main, capsys, *arguments)
    assert lines[0].startswith(f'error: mask without image: {mask} (expected an image of that')
    assert lines[1].startswith(f'error: image without mask: {moved} (expected ')
    moved.rename(image)
    mask.unlink()
    line = error_of(train_api.main, capsys, *arguments)
    assert line == f'error: image without mask: {image} (expected {mask})'


def test_class_id_above_num_classes(own_scenes, tmp_path, capsys):
    arguments = [DEMO, '--data-root', own_scenes, '--work-dir', tmp_path / 'w']
    mask = own_scenes / 'annotations' / 'training' / 'scene_00007.png'
    labels = cv2.imread(str(mask), -1)
    labels[5, 5] = 10
    cv2.imwrite(str(mask), labels)
    line = error_of(train_api.main, capsys, *arguments)
    assert line == (f'error: class id 10 in {mask}: the model has num_classes=9, so ids from 1 to '
                    '9 are expected (reduce_zero_label=True, ignored: 255)')
    _, line = errors_of(train_api.main, capsys, *arguments, '--cfg-options',
                        'model.auxiliary_head.num_classes=5')
    assert line == ('error: auxiliary_head: num_classes=5, the data set has 9 classes (sky, field, '
                    'water, ...); set model.auxiliary_head.num_classes=9 or metainfo.classes')
    mask.write_bytes(b'not a picture')
    assert f'error: unreadable mask: {mask}' in error_of(train_api.main, capsys, *arguments)


@pytest.mark.slow
def test_every_id_that_the_head_has_is_fine(own_scenes, tmp_path):
    mask = own_scenes / 'annotations' / 'training' / 'scene_00007.png'
    cv2.imwrite(str(mask), np.arange(64 * 80, dtype=np.uint8).reshape(64, 80) % 10)
    with pytest.raises(Started):
        train_api.main([DEMO, '--data-root', str(own_scenes), '--work-dir', str(tmp_path)])


def test_missing_files_and_wrong_uses(tmp_path, capsys):
    assert error_of(train_api.main, capsys, 'no.py') == 'error: config not found: no.py'
    (tmp_path / 'broken.py').write_text('model = dict(\n')
    assert 'SyntaxError' in error_of(train_api.main, capsys, tmp_path / 'broken.py')
    (tmp_path / 'empty.py').write_text('x = 1\n')
    assert 'expected a config with a `model`' in error_of(train_api.main, capsys,
                                                          tmp_path / 'empty.py')
    if not torch.cuda.is_available():
        assert error_of(train_api.main, capsys, DEMO, '--amp') == (
            'error: --amp needs a GPU, found none')
    assert 'expected a file *.pkl' in error_of(
        test_api.main, capsys, DEMO, 'x.pth', '--out', 'x.txt', '--cfg-options',
        'default_scope=mmdet')
    (tmp_path / 'no_tta.py').write_text('model = dict()\ntest_dataloader = dict()\n')
    assert '--tta needs' in error_of(test_api.main, capsys, tmp_path / 'no_tta.py', 'x.pth',
                                     '--tta')


@pytest.mark.slow
def test_checkpoints_that_run_code_are_refused(scenes, tmp_path, capsys):
    trace, bad = tmp_path / 'trace', tmp_path / 'bad.pth'
    torch.save(dict(state_dict={}, x=RunsCode(trace)), bad)
    common = ['--data-root', scenes, '--work-dir', tmp_path / 'w']
    expected = f'error: checkpoint refused: {bad} holds more than weights'
    assert expected in error_of(test_api.main, capsys, DEMO, bad, *common)
    for arguments in (['--cfg-options', f'load_from={bad}'], ['--resume', bad],
                      ['--cfg-options', 'model.backbone.init_cfg.type=Pretrained',
                       f'model.backbone.init_cfg.checkpoint={bad}']):
        assert expected in error_of(train_api.main, capsys, DEMO, *common, *arguments), arguments
    assert not trace.exists()
    assert 'checkpoint not found: no.pth' in error_of(test_api.main, capsys, DEMO, 'no.pth',
                                                      *common)


@pytest.mark.slow
def test_assertions_of_the_frameworks_are_one_line_too(scenes, tmp_path, capsys):
    torch.save(dict(state_dict=dict(x=torch.zeros(1))), tmp_path / 'x.pth')
    line = error_of(train_api.main, capsys, DEMO, '--data-root', scenes, '--work-dir', tmp_path,
                    '--cfg-options', 'model.backbone.init_cfg.type=Pretrained',
                    'model.backbone.init_cfg.prefix=backbone.',
                    f'model.backbone.init_cfg.checkpoint={tmp_path}/x.pth')
    assert 'backbone' in line and 'AssertionError' in traceback_of(line)


def test_other_exceptions_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), user_errors():
        1 / 0  # noqa: B018
    with pytest.raises(ValueError, match='in the loop'), user_errors() as started:
        started.before_train_iter(None, 0)
        raise ValueError('in the loop')


def test_unknown_flags_are_errors(capsys):
    for main in (train_api.main, test_api.main):
        with pytest.raises(SystemExit) as stop:
            main([DEMO, 'x.pth', '--workdir', 'x'])
        assert stop.value.code == 2


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('place', ['__getitem__', 'transform', 'model'])
def test_a_bug_before_the_first_iteration_is_one_line_and_a_file(
        place, workers, scenes, tmp_path, capsys, monkeypatch):
    monkeypatch.undo()  # train

    def broken(*args, **kwargs):
        return None.no_such_attribute

    owner, name = {'__getitem__': (ScenesDataset, '__getitem__'),
                   'transform': (RandomCrop, 'transform'),
                   'model': (UPerHead, '__init__')}[place]
    monkeypatch.setattr(owner, name, broken)
    line = error_of(train_api.main, capsys, DEMO, '--data-root', scenes, '--work-dir', tmp_path,
                    '--cfg-options', f'train_dataloader.num_workers={workers}',
                    'train_dataloader.persistent_workers=False',
                    'train_dataloader.batch_size=2')
    assert "AttributeError: 'NoneType' object has no attribute 'no_such_attribute'" in line
    text = traceback_of(line)
    assert 'in broken' in text and 'return None.no_such_attribute' in text
    if place != 'model':  # the work folder is there by then
        assert str(tmp_path / 'error_') in line


def test_debug_prints_the_traceback_too(capsys):
    with pytest.raises(SystemExit), user_errors(debug=True):
        {}['no such key']
    printed = capsys.readouterr().err
    assert printed.count("{}['no such key']") == 1 and "error: KeyError: no such key" in printed


def test_errors_for_the_user_have_no_file(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'openvino', None)
    (tmp_path / 'x.onnx').write_text('x')
    for raised in (lambda: find_weights({}), lambda: load_checkpoint(str(tmp_path / 'no.pth')),
                   lambda: load_exported(tmp_path / 'x.onnx', 'openvino')):
        with pytest.raises((ValueError, OSError, ImportError)) as error:
            raised()
        assert is_deliberate(error.value)
    with pytest.raises(ValueError) as error:
        int('x')
    assert not is_deliberate(error.value)


def test_a_transformers_that_is_too_new_for_mmpretrain_is_named(tmp_path, monkeypatch, capsys):
    path = tmp_path / 'mmpretrain' / 'models' / 'multimodal' / 'language_model.py'
    monkeypatch.setattr('importlib.metadata.version', lambda name: f'5.24.0 of {name}')
    with pytest.raises(SystemExit), user_errors():
        exec(compile('class Model(None):\n    pass', path, 'exec'), {})
    assert 'transformers 5.24.0' in capsys.readouterr().err
