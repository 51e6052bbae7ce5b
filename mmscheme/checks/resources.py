"""Checks of what a run needs besides data and model: numbers, hooks, disk space, batch size."""
import math
import os
import shutil
import tempfile
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from mmengine import Config
from mmengine.dist import get_world_size
from mmengine.registry import HOOKS, OPTIMIZERS
from torch import nn

from mmscheme.utils.config_query import as_list, find_class, iter_hooks, step_name

from .findings import Findings

__all__ = ['check_batch_size', 'check_disk', 'check_hooks', 'check_numbers', 'check_schedule',
           'check_work_dir', 'is_count']

_MIB = 2**20


def is_count(value: Any) -> bool:
    """Return True for a whole number above 0; 16e4, a float, is one too, as for mmengine."""
    return isinstance(value, (int, float)) and value >= 1 and value % 1 == 0


def check_numbers(cfg: Config, splits: Sequence[str], findings: Findings) -> None:
    """Check lengths, batch sizes, learning rates, the seed and the name of the optimizer."""

    def expect(right: bool, key: str, expected: str, found: Any, hint: str = '') -> None:
        if not right:
            findings.error(f'{key}: expected {expected}, found {found!r}{hint}')

    count = 'a positive whole number'
    if 'train' in splits:
        loop = cfg.get('train_cfg') or {}
        for key in ('max_iters', 'max_epochs', 'val_interval'):
            if loop.get(key) is not None:
                expect(is_count(loop[key]), f'train_cfg.{key}', count, loop[key])
        for optimizer in _optimizers(cfg):
            kind, rate = optimizer.get('type'), optimizer.get('lr', 0)
            close = get_close_matches(str(kind), OPTIMIZERS.module_dict, 1)
            expect(callable(find_class(OPTIMIZERS, kind)), 'optim_wrapper.optimizer.type',
                   'the name of an optimizer', kind, f'; did you mean {close[0]}?' if close else '')
            expect(rate is None or isinstance(rate, (int, float)) and 0 <= rate < math.inf,
                   'optim_wrapper.optimizer.lr', 'a learning rate of 0 or more', rate)
        base = (cfg.get('auto_scale_lr') or {}).get('base_batch_size', 1)
        expect(is_count(base), 'auto_scale_lr.base_batch_size', count, base)
    for split in splits:
        loader = cfg.get(f'{split}_dataloader') or {}
        size = loader.get('batch_size', 1)
        expect(bool(loader.get('batch_sampler')) or isinstance(size, int) and size >= 1,
               f'{split}_dataloader.batch_size', count, size)
    seed = (cfg.get('randomness') or {}).get('seed')
    expect(seed is None or isinstance(seed, int) and 0 <= seed < 2**32, 'randomness.seed',
           f'a whole number from 0 to {2**32 - 1} or None', seed)


def check_schedule(cfg: Config, findings: Findings, epoch: Optional[int] = None) -> None:
    """Compare warm-up and decay with the length of the run.

    Args:
        cfg: The config.
        findings: Findings to add to.
        epoch: Iterations of an epoch, if they are known.
    """
    loop = cfg.get('train_cfg') or {}
    lengths: Dict[bool, Any] = {True: loop.get('max_epochs'), False: loop.get('max_iters')}
    if epoch and is_count(lengths[True]):
        lengths[False] = lengths[True] * epoch
    ends: Dict[str, Any] = {}
    for scheduler in as_list(cfg.get('param_scheduler')):
        by_epoch = scheduler.get('by_epoch', True)
        length, begin = lengths[by_epoch], scheduler.get('begin', 0)
        if by_epoch and is_count(lengths[False]) and not epoch and not scheduler.get(
                'convert_to_iter_based') and 'type' in scheduler:
            findings.warn(f'param_scheduler: {step_name(scheduler)} counts epochs and this run '
                          'iterations, so it would never make a step: set by_epoch=False')
        if not is_count(length):
            continue
        span = scheduler.get('T_max') or scheduler.get('total_steps')
        end = scheduler.get('end') or (begin + span if span else length)
        rising = step_name(scheduler) in ('ConstantLR', 'LinearLR') and scheduler.get(
            'start_factor', scheduler.get('factor', 0)) < scheduler.get('end_factor', 1)
        unit = 'epoch' if by_epoch else 'iteration'
        steps = [*as_list(scheduler.get('milestones')), *as_list(scheduler.get('step_size'))]
        if steps and begin + max(steps) >= length:
            ends['decay'] = f'{unit} {begin + max(steps)}, the run at {unit} {length}'
        elif end > (length if rising else 1.1 * length):
            ends['warm-up' if rising else 'decay'] = f'{unit} {end}, the run at {unit} {length}'
        elif not rising:
            ends['decay'] = '' if end >= 0.9 * length else (
                f'{unit} {end}, the run at {unit} {length}')
    late = [f'the {name} ends at {text}' for name, text in ends.items() if text]
    if late:
        findings.warn(f'param_scheduler: {"; ".join(late)}: mmscheme=dict(epochs=N) or '
                      'dict(iters=N) in the config, or --epochs N or --iters N, moves warm-up, '
                      'decay, validation and checkpoints together')


def check_hooks(cfg: Config, findings: Findings) -> None:
    """Build our hooks, which only keep their arguments; others may need a runner."""
    for place, hook in iter_hooks(cfg):
        cls = find_class(HOOKS, hook.get('type'))
        if str(getattr(cls, '__module__', '')).startswith('mmscheme.'):
            try:
                HOOKS.build(hook)
            except (TypeError, ValueError) as e:
                findings.error(f'{place}: {e}', cause=e)


def _optimizers(cfg: Config) -> List[Dict[str, Any]]:
    wrapper = cfg.get('optim_wrapper') or {}
    return [o for o in as_list(wrapper.get('optimizer')) if isinstance(o, dict)]


def check_batch_size(cfg: Config, findings: Findings) -> None:
    """Compare the images of an iteration with those of the recipe."""
    recipe = cfg.get('auto_scale_lr') or {}
    size = (cfg.get('train_dataloader') or {}).get('batch_size', 1)
    if not isinstance(size, int):
        return
    # From the launcher too, because the processes are not connected yet.
    wrapper = cfg.get('optim_wrapper') or {}
    here = size * max(get_world_size(), int(os.environ.get('WORLD_SIZE', '1'))) * int(
        wrapper.get('accumulative_counts') or 1)
    if not recipe.get('enable') and recipe.get('base_batch_size', here) != here:
        findings.warn(
            f'this run has {here} images per step of the optimizer, but its recipe '
            f'{recipe["base_batch_size"]}: set train_dataloader.batch_size, or use --auto-scale-lr '
            'to scale the learning rate')


def _existing(path: str) -> Path:
    """Return the folder itself, or the first above it that exists."""
    folder = Path(path).absolute()
    return next(f for f in (folder, *folder.parents) if f.exists())


def check_work_dir(cfg: Config, findings: Findings) -> bool:
    """Return True if the folder for logs and checkpoints can be made and written."""
    if not cfg.get('work_dir'):
        return True
    folder = _existing(cfg.work_dir)
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError as e:
        findings.error(f'work folder cannot be written: {cfg.work_dir} ({folder}: {e.strerror}); '
                       'choose another with --work-dir')
        return False


def check_disk(cfg: Config, model: Optional[nn.Module], findings: Findings) -> None:
    """Compare the checkpoints that a run will keep with the space that is free."""
    hook = (cfg.get('default_hooks') or {}).get('checkpoint')
    if model is None or not isinstance(hook, dict) or not cfg.get('work_dir'):
        return
    size, count = _checkpoint_size(cfg, model, hook), _kept(cfg, hook)
    folder = _existing(str(hook.get('out_dir') or cfg.work_dir))
    # Those of an earlier run will be replaced by as many.
    there = sum(p.stat().st_size for p in folder.glob('*.pth')) if folder.is_dir() else 0
    free = shutil.disk_usage(folder).free
    needed = count * size - min(there, (count - 1) * size)
    line = (f'disk space: {count} checkpoints of about {size / _MIB:.0f} MiB need '
            f'{needed / _MIB:.0f} MiB in {folder}, {free / _MIB:.0f} MiB are free')
    limit = _largest_file()
    if limit is not None and size > limit:
        findings.error(f'a checkpoint needs about {size / _MIB:.2f} MiB of disk space, but this '
                       f'process may write files of {limit / _MIB:.2f} MiB (ulimit -f)')
    elif needed > free:
        findings.error(f'{line}: make room, choose another --work-dir, or set '
                       'default_hooks.checkpoint.max_keep_ckpts')
    elif needed > 0.8 * free:
        findings.warn(line)


def _largest_file() -> Optional[int]:
    try:
        import resource
    except ImportError:  # not on this system
        return None
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _checkpoint_size(cfg: Config, model: nn.Module, hook: Dict[str, Any]) -> int:
    """Return the bytes of a training checkpoint: weights, averages, moments of the optimizer."""
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    moments = 0
    for optimizer in _optimizers(cfg) if hook.get('save_optimizer', True) else ():
        plain = step_name(optimizer) == 'SGD'
        moments = trained * (1 if plain and optimizer.get('momentum') else 0 if plain else 2)
    averaged = any('EMA' in step_name(hook) for _, hook in iter_hooks(cfg))
    return weights * (2 if averaged else 1) + moments


def _kept(cfg: Config, hook: Dict[str, Any]) -> int:
    """Return the largest number of files at a time; a new one comes before an old one goes."""
    loop = cfg.get('train_cfg') or {}
    length = loop.get('max_epochs' if hook.get('by_epoch', True) else 'max_iters') or 1
    interval, most = hook.get('interval', 1), hook.get('max_keep_ckpts', -1)
    saved = int(-(-length // interval)) if is_count(length) and is_count(interval) else 1
    if isinstance(most, int) and most > 0:
        saved = min(saved, most + 1)
    return saved + len(as_list(hook.get('save_best')))
