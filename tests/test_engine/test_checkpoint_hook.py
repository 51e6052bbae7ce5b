"""Checkpoints under kills and full disks, at each operation on files."""
import builtins
import itertools
import os
import resource
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.runner import save_checkpoint

from mmscheme.registry import HOOKS
from mmscheme.utils import find_checkpoint as resume
from mmscheme.utils.checkpoint_io import make_plain
from mmscheme.utils.find_checkpoint import find_checkpoint

LENGTH = 3
_names = itertools.count()


class Killed(BaseException):
    """The process is gone; nothing of it runs any more."""


def write(runner, out_dir, filename, *args, backend_args=None, meta=None, **kwargs):
    """What Runner.save_checkpoint writes, of a model of a few values."""
    content = dict(meta=meta, state_dict=dict(w=torch.full((runner.size, ), float(meta['iter']))),
                   optimizer={}, message_hub=make_plain(runner.message_hub.state_dict()))
    save_checkpoint(content, os.path.join(out_dir, filename), backend_args=backend_args)


def make_runner(work_dir, size=10):
    lines = []
    hub = MessageHub(f'checkpoints {next(_names)}')
    logger = SimpleNamespace(info=lambda s: None, error=lines.append, warning=lambda s: None)
    runner = SimpleNamespace(work_dir=str(work_dir), message_hub=hub, iter=0, epoch=0,
                             max_iters=LENGTH, logger=logger, lines=lines, size=size)
    runner.save_checkpoint = lambda *args, **kwargs: write(runner, *args, **kwargs)
    return runner


def train(work_dir, again=False, keep=1):
    """The calls of a run; the score of iteration i is the best so far when i is odd."""
    runner = make_runner(work_dir)
    hook = HOOKS.build(dict(type='mmscheme.CheckpointHook', by_epoch=False, interval=1,
                            max_keep_ckpts=keep, save_best='acc', rule='greater'))
    if again:
        path = find_checkpoint(work_dir)
        if path:
            checkpoint = torch.load(path, weights_only=True)
            runner.iter = checkpoint['meta']['iter']
            runner.message_hub.load_state_dict(checkpoint['message_hub'])
    hook.before_train(runner)
    first = runner.iter
    if first:  # as the loop does where a validation was due
        hook.after_val_epoch(runner, score(first))
    for runner.iter in range(first, LENGTH):
        hook.after_train_iter(runner, 0)
        runner.iter += 1
        hook.after_val_epoch(runner, score(runner.iter))
    return runner


def score(iteration):
    return dict(acc=iteration if iteration % 2 else 0.)


def files(work_dir):
    return sorted(p.name for p in work_dir.iterdir())


def arm(monkeypatch, at):
    """Kills the process before its operation number `at`; returns the count of operations."""
    count = itertools.count()
    done = []

    def guard(owner, name, applies=lambda *a: True):
        real = getattr(owner, name)

        def call(*args, **kwargs):
            if applies(*args):
                done.append(name)
                if next(count) >= at:
                    raise Killed
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    guard(Path, 'replace')
    guard(Path, 'unlink')
    guard(os, 'fsync')
    guard(os, 'remove')
    guard(Path, 'open', lambda path, mode='r', *a: 'w' in mode)
    guard(builtins, 'open', lambda path, mode='r', *a: 'w' in mode and isinstance(path, str))
    return done


def test_a_kill_before_any_operation_on_files_leaves_a_way_on(tmp_path, monkeypatch):
    whole = tmp_path / 'whole'
    whole.mkdir()
    with monkeypatch.context() as patch:
        operations = arm(patch, 10**9)
        train(whole)
    assert {'replace', 'fsync', 'remove', 'open'} <= set(operations)
    expected = ['best_acc_iter_3.pth', 'iter_3.pth', 'last_checkpoint']
    assert files(whole) == expected
    for at in range(len(operations)):
        folder = tmp_path / str(at)
        folder.mkdir()
        with monkeypatch.context() as patch:
            arm(patch, at)
            with pytest.raises(Killed):
                train(folder)
        pointer = folder / 'last_checkpoint'
        if pointer.exists():
            # What it names is whole, and no checkpoint of before is needed.
            assert find_checkpoint(folder) == pointer.read_text()
        runner = train(folder, again=True)
        assert not runner.lines
        assert files(folder) == expected, (at, operations[at])


def test_full_disk_leaves_the_checkpoint_before_and_training_goes_on(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    runner = make_runner(tmp_path)
    hook = HOOKS.build(dict(type='mmscheme.CheckpointHook', by_epoch=False, interval=1,
                            max_keep_ckpts=1, save_best='acc', rule='greater'))
    hook.before_train(runner)
    hook.after_train_iter(runner, 0)
    runner.iter = 1
    hook.after_val_epoch(runner, dict(acc=1.))
    before = files(tmp_path)
    assert before == ['best_acc_iter_1.pth', 'iter_1.pth', 'last_checkpoint']
    runner.size = 10**6
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, limits[1]))
        hook.after_train_iter(runner, 0)
        runner.iter = 2
        hook.after_val_epoch(runner, dict(acc=2.))
        first, *_ = runner.lines
        assert first == (f'checkpoint not written: {tmp_path}/iter_2.pth (File too large); the '
                         f'last usable one is {tmp_path}/iter_1.pth; training continues')
        assert 'best checkpoint not written (File too large)' in runner.lines[1]
        assert files(tmp_path) == before
        runner.iter = LENGTH - 1
        with pytest.raises(OSError, match=r'not written: .*iter_3.pth .*iter_1.pth; make room'):
            hook.after_train_iter(runner, 0)
        assert files(tmp_path) == before
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    # There is room again.
    hook.after_train_iter(runner, 0)
    runner.iter = LENGTH
    hook.after_val_epoch(runner, dict(acc=2.))
    assert files(tmp_path) == ['best_acc_iter_3.pth', 'iter_3.pth', 'last_checkpoint']
    assert find_checkpoint(tmp_path) == f'{tmp_path}/iter_3.pth'


@pytest.fixture
def folder(tmp_path):
    """A run that ended."""
    train(tmp_path, keep=2)
    assert files(tmp_path) == ['best_acc_iter_3.pth', 'iter_2.pth', 'iter_3.pth',
                               'last_checkpoint']
    return tmp_path


@pytest.mark.parametrize('damage', ['cut', 'empty', 'missing', 'not a checkpoint', 'bits'])
def test_the_newest_readable_checkpoint_replaces_the_one_that_is_named(folder, damage,
                                                                        monkeypatch):
    lines = []
    monkeypatch.setattr(resume, 'print_log', lambda text, **kwargs: lines.append(text))
    last, data = folder / 'iter_3.pth', (folder / 'iter_3.pth').read_bytes()
    if damage == 'missing':
        last.unlink()
    elif damage == 'not a checkpoint':
        torch.save(dict(w=torch.zeros(1)), last)
    elif damage == 'bits':
        i = data.index(torch.full((10, ), 3.).numpy().tobytes())
        last.write_bytes(data[:i] + b'\x01' + data[i + 1:])
    else:
        last.write_bytes(data[:dict(cut=len(data) // 2, empty=0)[damage]])
    assert find_checkpoint(folder) == str(folder / 'iter_2.pth')
    line, = lines
    assert line.startswith(f'resuming from {folder / "iter_2.pth"}, the newest readable '
                           'checkpoint: ') and str(last) in line
    (folder / 'iter_2.pth').write_bytes(b'')
    # Never the best one: it has no optimizer.
    with pytest.raises(ValueError, match='no readable checkpoint to resume from'):
        find_checkpoint(folder)


def test_checkpoints_without_a_pointer_are_found_and_a_moved_folder_too(folder, tmp_path_factory):
    moved = tmp_path_factory.mktemp('moved') / 'run'
    folder.rename(moved)
    assert find_checkpoint(moved) == str(moved / 'iter_3.pth')
    (moved / 'last_checkpoint').unlink()
    (moved / 'iter_10.pth').write_bytes((moved / 'iter_3.pth').read_bytes())
    assert find_checkpoint(moved) == str(moved / 'iter_10.pth')
    # The format of long ago.
    torch.save(torch.load(moved / 'iter_10.pth', weights_only=True), moved / 'iter_11.pth',
               _use_new_zipfile_serialization=False)
    assert find_checkpoint(moved) == str(moved / 'iter_11.pth')
    assert find_checkpoint(moved / 'nothing') is None
