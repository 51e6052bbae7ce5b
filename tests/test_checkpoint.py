"""Checkpoints: no code in them is executed, and what training needs is kept."""
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import load_checkpoint as mmengine_load_checkpoint

from mmscheme.models import SCHEMEformer
from mmscheme.utils.checkpoint_io import load_checkpoint, make_plain, restore_plain
from tests.models import TINY
from tests.utils import RunsCode

pytestmark = pytest.mark.usefixtures('safe_checkpoints')


class ObjectArray:
    """Its pickle makes an array of pointers to wherever it likes."""

    def __init__(self, path):
        pass

    def __reduce__(self):
        return np.ndarray, ((1, ), np.dtype('O'), b'A' * 8)


class CallsWhatGetattrGives:
    """Its pickle calls an attribute that it gets from an allowed name."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return _Call(), (str(self.path), )


def make_folder(path):
    os.mkdir(path)


class CallsAFunction(RunsCode):
    """Its pickle calls a function of no module that torch blocks by name."""

    def __reduce__(self):
        return make_folder, (str(self.path), )


class _Call:

    def __reduce__(self):
        return getattr, (HistoryBuffer, 'register_statistics')

    def __call__(self):
        """So that pickle takes it for a function."""


@pytest.fixture
def message_hub():
    hub = MessageHub('test_checkpoint')
    for i in range(5):
        hub.update_scalar('train/loss', 1.5 * i, count=2)
    hub.update_info('iter', 4)
    hub.update_info('best', np.float32(0.5))
    hub.update_info('counts', np.arange(3))
    return hub.state_dict()


def refused(path):
    return rf'(checkpoint refused|not a readable checkpoint): {path}'


@pytest.mark.parametrize('attack', [RunsCode, ObjectArray, CallsWhatGetattrGives])
def test_a_checkpoint_that_would_run_code_is_refused(attack, tmp_path):
    path, trace = tmp_path / 'bad.pth', tmp_path / 'trace'
    torch.save(dict(state_dict=SCHEMEformer(TINY).state_dict(), extra=attack(trace)), path)
    for load in (load_checkpoint, CheckpointLoader.load_checkpoint,
                 lambda p: mmengine_load_checkpoint(SCHEMEformer(TINY), p)):
        with pytest.raises(ValueError, match=refused(path)) as error:
            load(str(path))
        assert len(str(error.value).splitlines()) == 1
    model = SCHEMEformer(TINY, init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    with pytest.raises(ValueError, match=refused(path)):
        model.init_weights()
    assert not trace.exists()
    if attack is RunsCode:  # the file is as bad as it claims to be
        torch.load(path, weights_only=False)
        assert trace.exists()


@pytest.mark.parametrize('source', ['https://example.org/weights/bad.pth', 'torchvision://bad',
                                    'open-mmlab://bad', 'mmcls://bad'])
def test_downloads_are_refused_too(source, tmp_path, monkeypatch):
    trace, bad = tmp_path / 'trace', tmp_path / 'bad.pth'
    torch.save(dict(x=RunsCode(trace)), bad)
    cached = tmp_path / 'hub' / 'checkpoints' / 'bad.pth'
    cached.parent.mkdir(parents=True)
    bad.rename(cached)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    from mmengine.runner import checkpoint as stock
    for name in ('get_torchvision_models', 'get_external_models', 'get_mmcls_models'):
        monkeypatch.setattr(stock, name, lambda: dict(bad='https://example.org/weights/bad.pth'))
    monkeypatch.setattr(stock, 'get_deprecated_model_names', dict)
    with pytest.raises(ValueError, match='checkpoint refused'):
        CheckpointLoader.load_checkpoint(source)
    assert not trace.exists()
    assert os.environ['TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'] == '1'


@pytest.mark.parametrize('pickled', [False, True])
def test_old_formats_are_refused_too(pickled, tmp_path):
    path, trace = tmp_path / 'bad.pkl', tmp_path / 'trace'
    if pickled:
        path.write_bytes(pickle.dumps(RunsCode(trace)))
    else:
        torch.save(dict(x=RunsCode(trace)), path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match='checkpoint refused'):
        CheckpointLoader.load_checkpoint(str(path))
    assert not trace.exists()


def test_what_others_allowed_does_not_count(tmp_path):
    path, trace = tmp_path / 'bad.pth', tmp_path / 'trace'
    torch.save(dict(x=CallsAFunction(trace)), path)
    before = torch.serialization.get_safe_globals()
    allowed = [getattr, HistoryBuffer, make_folder]
    torch.serialization.add_safe_globals(allowed)
    try:
        torch.load(path, weights_only=True)
        trace.rmdir()
        with pytest.raises(ValueError, match=refused(path)):
            load_checkpoint(str(path))
        assert set(torch.serialization.get_safe_globals()) == {*before, *allowed}
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
    assert not trace.exists()


def test_code_in_the_stored_config_is_dropped(tmp_path):
    """Runner.resume and the inferencers execute these texts as Python."""
    path, code = tmp_path / 'config.pth', 'import os; os.abort()'
    torch.save(dict(meta=dict(config=code, cfg=code, iter=3),
                    message_hub=dict(runtime_info=dict(cfg=code, iter=3))), path)
    checkpoint = load_checkpoint(str(path))
    assert checkpoint == dict(meta=dict(iter=3), message_hub=dict(runtime_info=dict(iter=3)))


def test_a_history_does_not_change_the_class(tmp_path, message_hub):
    path, methods = tmp_path / 'x.pth', dict(HistoryBuffer._statistics_methods)
    buffer = message_hub['log_scalars']['train/loss']
    buffer._statistics_methods = dict(methods, mean='x')
    torch.save(dict(h=buffer), path)
    assert load_checkpoint(str(path))['h'].mean() == 1.5
    assert HistoryBuffer._statistics_methods == methods


def test_arrays_and_numbers_of_numpy_come_back(tmp_path):
    path = tmp_path / 'numpy.pth'
    saved = dict(a=np.arange(6, dtype='>i2').reshape(2, 3), b=[np.asfortranarray(np.eye(3)[:2])],
                 c=(np.float32(1.5), np.bool_(True)), d=np.array(['x', 'yz']), e=np.zeros((0, 3)))
    torch.save(saved, path)
    read = load_checkpoint(str(path))
    for a, b in ((read['a'], saved['a']), (read['b'][0], saved['b'][0]), (read['d'], saved['d']),
                 (read['e'], saved['e'])):
        assert np.array_equal(a, b) and a.dtype == b.dtype and a.shape == b.shape
    assert read['c'] == saved['c'] and type(read['c'][0]) is np.float32
    torch.save(dict(a=np.array([object()])), path)
    with pytest.raises(ValueError, match=refused(path)):
        load_checkpoint(str(path))


def test_mmengine_training_checkpoints_can_be_read(tmp_path, message_hub):
    path = tmp_path / 'stock.pth'
    torch.save(dict(message_hub=message_hub, meta=dict(seed=np.int64(3))), path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    checkpoint = load_checkpoint(str(path))
    buffer = checkpoint['message_hub']['log_scalars']['train/loss']
    assert isinstance(buffer, HistoryBuffer) and buffer.mean() == 1.5 and buffer.current() == 6.
    assert checkpoint['meta']['seed'] == 3
    assert checkpoint['message_hub']['runtime_info']['counts'].tolist() == [0, 1, 2]


def test_plain_form_is_read_by_torch_and_comes_back(tmp_path, message_hub):
    path = tmp_path / 'plain.pth'
    torch.save(make_plain(message_hub), path)
    read = torch.load(path, weights_only=True)
    assert isinstance(read['log_scalars'], OrderedDict)
    assert read['runtime_info']['best'] == 0.5
    buffer = restore_plain(read['log_scalars'])['train/loss']
    original = message_hub['log_scalars']['train/loss']
    for a, b in zip(buffer.data, original.data):
        assert np.array_equal(a, b)
    assert make_plain(dict(f=print, g=[np.int64(2)])) == dict(g=[2])
    hub = MessageHub('test_checkpoint_restored')
    hub.load_state_dict(dict(read, log_scalars=restore_plain(read['log_scalars'])))
    assert hub.get_scalar('train/loss').mean() == original.mean()


def test_other_bad_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='checkpoint not found: /nowhere.pth'):
        load_checkpoint('/nowhere.pth')
    path = tmp_path / 'cut.pth'
    torch.save(dict(w=torch.zeros(1000)), path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=f'not a readable checkpoint: {path}'):
        load_checkpoint(str(path))
    path.write_bytes(b'')
    with pytest.raises(ValueError, match=f'not a readable checkpoint: {path}'):
        load_checkpoint(str(path))
    path.write_bytes(b'\x80\x02.')
    with pytest.raises(ValueError, match=f'not a readable checkpoint: {path}'):
        load_checkpoint(str(path))
    path.write_bytes(b'<html>not found</html>')
    with pytest.raises(ValueError, match=f'{path}'):
        load_checkpoint(str(path))
