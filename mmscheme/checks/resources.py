"""Checks of what a run needs besides data and model: numbers, disk space, batch size."""
import math
import os
import shutil
import tempfile
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Dict, Optional

from mmengine import Config
from mmengine.dist import get_world_size
from mmengine.registry import OPTIMIZERS
from torch import nn

from mmscheme.utils.config_query import as_list, find_class, step_name

from .findings import Findings

__all__ = ['check_batch_size', 'check_disk', 'check_numbers', 'check_work_dir', 'is_count']

_MIB = 2**20


def is_count(value: Any) -> bool:
    """Whether a value is a whole number above 0; 16e4, a float, is one too, as for mmengine."""
    return isinstance(value, (int, float)) and value >= 1 and value % 1 == 0


def check_numbers(cfg: Config, splits: Any, findings: Findings) -> None:
    """Lengths, batch sizes, learning rates and the seed, and which optimizer there is."""
    loop = cfg.get('train_cfg') or {}
    if 'train' in splits:
        for key in ('max_iters', 'max_epochs', 'val_interval'):
            value = loop.get(key)
            if value is not None and not is_count(value):
                findings.error(f'train_cfg.{key}: expected a positive whole number, found '
                               f'{value!r}')
        _check_optimizers(cfg, findings)
        base = (cfg.get('auto_scale_lr') or {}).get('base_batch_size', 1)
        if not is_count(base):
            findings.error('auto_scale_lr.base_batch_size: expected a positive whole number, '
                           f'found {base!r}')
    for split in splits:
        loader = cfg.get(f'{split}_dataloader') or {}
        size = loader.get('batch_size', 1)
        if loader and not loader.get('batch_sampler') and (not isinstance(size, int) or size < 1):
            findings.error(f'{split}_dataloader.batch_size: expected a positive whole number, '
                           f'found {size!r}')
    seed = (cfg.get('randomness') or {}).get('seed')
    if seed is not None and not (isinstance(seed, int) and 0 <= seed < 2**32):
        findings.error(f'randomness.seed: expected a whole number from 0 to {2**32 - 1} or None, '
                       f'found {seed!r}')


def _check_optimizers(cfg: Config, findings: Findings) -> None:
    for optimizer in _optimizers(cfg):
        kind, rate = optimizer.get('type'), optimizer.get('lr')
        if not callable(find_class(OPTIMIZERS, kind)):
            close = get_close_matches(str(kind), OPTIMIZERS.module_dict, 1)
            hint = f'; did you mean {close[0]}?' if close else ''
            findings.error('optim_wrapper.optimizer.type: expected the name of an optimizer, '
                           f'found {kind!r}{hint}')
        if rate is not None and (
                not isinstance(rate, (int, float)) or not math.isfinite(rate) or rate < 0):
            findings.error('optim_wrapper.optimizer.lr: expected a learning rate of 0 or more, '
                           f'found {rate!r}')


def _optimizers(cfg: Config) -> list:
    wrapper = cfg.get('optim_wrapper') or {}
    return [o for o in as_list(wrapper.get('optimizer')) if isinstance(o, dict)]


def check_batch_size(cfg: Config, findings: Findings) -> None:
    """Compares the images of an iteration with those of the recipe."""
    recipe = cfg.get('auto_scale_lr') or {}
    size = (cfg.get('train_dataloader') or {}).get('batch_size', 1)
    if not isinstance(size, int):
        return
    # The launcher's word, for the processes have not met yet.
    here = size * max(get_world_size(), int(os.environ.get('WORLD_SIZE', '1')))
    if not recipe.get('enable') and recipe.get('base_batch_size', here) != here:
        findings.warn(
            f'This run has {here} images an iteration, its recipe {recipe["base_batch_size"]}: '
            'set train_dataloader.batch_size, or --auto-scale-lr to scale the learning rate.')


def _existing(path: str) -> Path:
    """The folder itself or the first above it that is there."""
    folder = Path(path).absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def check_work_dir(cfg: Config, findings: Findings) -> bool:
    """Whether the folder for logs and checkpoints can be made and written."""
    work_dir = cfg.get('work_dir')
    if not work_dir:
        return True
    folder = _existing(work_dir)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as e:
        findings.error(f'work folder cannot be written: {work_dir} ({folder}: {e.strerror}); '
                       'choose another with --work-dir')
        return False
    return True


def check_disk(cfg: Config, model: Optional[nn.Module], findings: Findings) -> None:
    """Compares the checkpoints that a run will keep with the space that is free."""
    hook = (cfg.get('default_hooks') or {}).get('checkpoint')
    if model is None or not isinstance(hook, dict) or not cfg.get('work_dir'):
        return
    size = _checkpoint_size(cfg, model, hook)
    count = _kept(cfg, hook)
    folder = _existing(str(hook.get('out_dir') or cfg.work_dir))
    # Those of a run before will be replaced by as many.
    there = sum(p.stat().st_size for p in folder.glob('*.pth')) if folder.is_dir() else 0
    free = shutil.disk_usage(folder).free
    needed = count * size - min(there, (count - 1) * size)
    told = (f'{count} checkpoints of about {size / _MIB:.0f} MiB need {needed / _MIB:.0f} MiB in '
            f'{folder}, {free / _MIB:.0f} MiB are free')
    limit = _largest_file()
    if limit is not None and size > limit:
        findings.error(f'a checkpoint needs about {size / _MIB:.2f} MiB of disk space, this '
                       f'process may write files of {limit / _MIB:.2f} MiB (ulimit -f)')
    elif needed > free:
        findings.error(f'disk space: {told}: make room, choose another --work-dir, or set '
                       'default_hooks.checkpoint.max_keep_ckpts')
    elif needed > 0.8 * free:
        findings.warn(f'disk space: {told}')


def _largest_file() -> Optional[int]:
    try:
        import resource
    except ImportError:  # not on this system
        return None
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _checkpoint_size(cfg: Config, model: nn.Module, hook: Dict[str, Any]) -> int:
    """Bytes of a training checkpoint: weights, moments of the optimizer, averaged weights."""
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    moments = 0
    if hook.get('save_optimizer', True):
        for optimizer in _optimizers(cfg):
            plain = step_name(optimizer) == 'SGD'
            moments = trained * (1 if plain and optimizer.get('momentum') else 0 if plain else 2)
    averaged = any(isinstance(h, dict) and 'EMA' in step_name(h)
                   for h in as_list(cfg.get('custom_hooks')))
    return weights * (2 if averaged else 1) + moments


def _kept(cfg: Config, hook: Dict[str, Any]) -> int:
    """How many files there are at most at a time; a new one comes before an old one goes."""
    loop = cfg.get('train_cfg') or {}
    by_epoch = hook.get('by_epoch', True)
    length = loop.get('max_epochs' if by_epoch else 'max_iters') or 1
    interval = hook.get('interval', 1)
    saved = 1
    if is_count(length) and is_count(interval):
        saved = int(-(-length // interval))
    most = hook.get('max_keep_ckpts', -1)
    if isinstance(most, int) and most > 0:
        saved = min(saved, most + 1)
    best = len(as_list(hook.get('save_best')))
    return saved + best
