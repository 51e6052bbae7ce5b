"""Damaged checkpoints: read or refused in a line; never a traceback, never code that runs."""
import io
import os
import pickle
import subprocess
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from mmscheme.checks import Findings
from mmscheme.checks.checkpoint import check_checkpoint
from mmscheme.models import SCHEMEformer
from mmscheme.utils.checkpoint_io import make_plain, use_safe_checkpoints
from mmscheme.utils.safetensors_io import safetensors_bytes
from tests.test_fuzz.mutate import mutate_bytes, mutate_structure, numbers, time_limit

TINY = dict(depths=(1, 1, 1, 1), embed_dims=(32, 32, 32, 32))
PART, FULL = 40, 400


def content(model):
    """What training writes, small."""
    history = HistoryBuffer([1., 2.], [1, 1])
    return dict(
        meta=dict(epoch=1, iter=2, dataset_meta=dict(classes=('a', 'b')), seed=np.int64(3)),
        state_dict=OrderedDict(model.state_dict()),
        message_hub=dict(log_scalars=dict(loss=history), runtime_info=dict(iter=2),
                         resumed_keys={}),
        optimizer=dict(state={0: dict(step=torch.tensor(1.), exp_avg=torch.zeros(3))},
                       param_groups=[dict(lr=0.1, params=[0])]),
        param_schedulers=[dict(last_step=1)])


def tensors():
    """Tensors that are none a model has."""
    return [torch.zeros(3, dtype=torch.complex64), torch.zeros(2, dtype=torch.int8),
            torch.full((2, ), float('nan')), torch.empty(0), torch.zeros(()),
            torch.zeros(2, 3).to_sparse(), torch.zeros(1).expand(50, 50), torch.zeros(
                3, device='meta'), torch.zeros(3, dtype=torch.bfloat16), torch.zeros(
                    3, dtype=torch.bool), torch.quantize_per_tensor(
                        torch.zeros(3), 1., 0, torch.qint8), torch.zeros(
                            3, dtype=torch.float8_e4m3fn), np.zeros(3), np.float32(1),
            np.array(['a', 'b']), torch.nn.Parameter(torch.zeros(2))]


class Calls:
    """Its pickle calls a function with arguments."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def attacks(trace):
    """Pickles that make a folder when they are obeyed."""
    import builtins
    import functools
    import importlib
    import operator
    import shutil
    inner = pickle.dumps(Calls(os.mkdir, trace))
    return [
        Calls(os.mkdir, trace), Calls(os.makedirs, trace), Calls(os.system, f'mkdir {trace}'),
        Calls(subprocess.Popen, ['mkdir', trace]),
        Calls(eval, f'__import__("os").mkdir({trace!r})'),
        Calls(exec, f'import os; os.mkdir({trace!r})'), Calls(pickle.loads, inner),
        Calls(torch.storage._load_from_bytes, inner), Calls(importlib.import_module, 'antigravity'),
        Calls(functools.partial, os.mkdir, trace), Calls(operator.methodcaller, '__reduce__'),
        Calls(builtins.getattr, os, 'mkdir'), Calls(shutil.copytree, '/etc/apt', trace),
        Calls(map, os.mkdir, [trace]), Calls(np.load, trace, None, True),
        Calls(torch.load, trace), Calls(open, trace, 'w'), Calls(torch.jit.load, trace),
        Calls(torch.hub.load, trace), Calls(io.FileIO, trace, 'w'), Calls(type, 'X', (), {}),
        Calls(np.ndarray, (1, ), np.dtype('O'), b'A' * 8), Calls(torch.ops.load_library, trace),
        Calls(HistoryBuffer.register_statistics, os.mkdir), Calls(OrderedDict, [(1, os.mkdir)])]


def rewrite_zip(data, rng):
    """Damages one file inside a checkpoint, whose archive stays whole."""
    source, target = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    names = source.namelist()
    chosen = rng.choice([n for n in names if n.endswith('.pkl')] * 3 + names)
    with zipfile.ZipFile(target, 'w', zipfile.ZIP_STORED) as archive:
        for name in names:
            piece = source.read(name)
            if name == chosen:
                if rng.random() < 0.1:
                    continue
                piece = mutate_bytes(piece, rng) if piece else b'x'
            archive.writestr(name, piece)
    return target.getvalue()


def saved(value, legacy=False):
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def damaged(rng, model, trace):
    """A damaged checkpoint."""
    good = content(model)
    kind = rng.choice(['bytes', 'zip', 'zip', 'zip', 'structure', 'structure', 'tensors', 'code',
                       'legacy', 'other', 'safetensors', 'safetensors'])
    if kind == 'bytes':
        return kind, mutate_bytes(saved(good), rng)
    if kind == 'zip':
        return kind, rewrite_zip(saved(good), rng)
    if kind == 'safetensors':
        data = safetensors_bytes(dict(good, meta=make_plain(good['meta'])))
        # In the header, or anywhere.
        length = 8 + int.from_bytes(data[:8], 'little')
        return kind, (mutate_bytes(data[:length], rng) + data[length:] if rng.random() < 0.7
                      else mutate_bytes(data, rng))
    if kind == 'legacy':
        return kind, mutate_bytes(saved(good, True), rng)
    if kind == 'structure':
        good['state_dict'] = dict(good['state_dict'])
        good['message_hub'].pop('log_scalars')
        return kind, saved(mutate_structure(good, rng))
    if kind == 'tensors':
        state = good['state_dict']
        for _ in range(rng.choice([1, 2, 5])):
            key = rng.choice(list(state))
            state[rng.choice([key, key, 7, ('a', 1), key + '.x'])] = rng.choice(
                [*tensors(), rng.choice(list(state.values()))])
        return kind, saved(rng.choice([good, state, dict(model=state), [state]]))
    if kind == 'code':
        attack = rng.choice(attacks(str(trace)))
        good[rng.choice(['meta', 'state_dict', 'extra', 'optimizer'])] = rng.choice(
            [attack, [attack], dict(x=attack)])
        try:
            return kind, saved(good, rng.random() < 0.3)
        except (pickle.PicklingError, TypeError, AttributeError):
            return kind, pickle.dumps(Calls(os.mkdir, str(trace)), 2)
    return kind, rng.choice([b'', b'\x80', b'PK\x03\x04', b'PK\x05\x06' + bytes(18),
                             b'<html></html>', b'\x89PNG\r\n', pickle.dumps({}),
                             pickle.dumps(good['meta'], 0), saved([]), saved(None), saved('x'),
                             saved(torch.zeros(3)), b'(' * 50000,
                             b'\x80\x02' + b']' * 200000 + b'.', rng.randbytes(3000)])


@pytest.mark.parametrize('chunk', range(10))
def test_damaged_checkpoints(chunk, fuzz_full, tmp_path):
    use_safe_checkpoints()
    model = SCHEMEformer(TINY)
    whole = {k: v.clone() for k, v in model.state_dict().items()}
    path, trace = tmp_path / 'x.pth', tmp_path / 'trace'
    before = os.getcwd()
    for rng in numbers(FULL if fuzz_full else PART)[chunk::10]:
        kind, data = damaged(rng, model, trace)
        path.write_bytes(data)
        for use in ('test', 'resume', 'load_from'):
            findings = Findings()
            with time_limit(30):
                check_checkpoint(str(path), model, use, findings)
            assert all(len(e.splitlines()) == 1 and str(path) in e for e in findings.errors), kind
            if not findings.errors and use == 'test':
                loaded = CheckpointLoader.load_checkpoint(str(path), map_location='cpu')
                weights = loaded.get('state_dict', loaded)
                # What passes for a test can be loaded whole.
                SCHEMEformer(TINY).load_state_dict(
                    {k.removeprefix('module.'): v for k, v in weights.items()}, strict=False)
            model.load_state_dict(whole)
        assert not trace.exists(), kind
    assert os.getcwd() == before


@pytest.mark.parametrize('number', range(25))
def test_no_attack_runs(number, tmp_path):
    """Each of them would, in the hands of pickle."""
    path, trace = tmp_path / 'x.pth', tmp_path / 'trace'
    attack = attacks(str(trace))[number]
    for legacy in (False, True):
        try:
            data = saved(dict(state_dict={}, x=attack), legacy)
        except (pickle.PicklingError, TypeError, AttributeError):
            pytest.skip('cannot be pickled')
        path.write_bytes(data)
        findings = Findings()
        check_checkpoint(str(path), None, 'test', findings)
        assert len(findings.errors) == 1 and not trace.exists()


def test_the_first_attacks_are_attacks(tmp_path):
    for number in range(3):
        trace = tmp_path / f'trace{number}'
        pickle.loads(pickle.dumps(attacks(str(trace))[number]))
        assert trace.exists()
