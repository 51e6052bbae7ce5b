"""The length of a run, and all that follows it."""
import logging
import math
import os
from fractions import Fraction
from typing import Any, Dict, Optional

from mmengine import Config
from mmengine.logging import print_log
from mmengine.registry import DATASETS, init_default_scope

from mmscheme.checks import is_count
from mmscheme.engine.runners.randomness import keep_random_numbers
from mmscheme.utils.config_query import as_list, scope_of, walk

__all__ = ['apply_length', 'scale_schedulers', 'set_length']

_UNITS = {'max_epochs': 'epoch', 'max_iters': 'iter'}


def apply_length(cfg: Config) -> None:
    """Give a config the length that its key ``mmscheme`` asks for, and take the key out.

    Args:
        cfg: Changed in place.

    Raises:
        ValueError: The key holds something else, or see :func:`set_length`.
    """
    length = cfg.pop('mmscheme', None)
    if length is None:
        return
    if not isinstance(length, dict) or {*length} - {'epochs', 'iters'}:
        raise ValueError(f'mmscheme: expected dict(epochs=N) or dict(iters=N), found {length!r}')
    set_length(cfg, **length)


def set_length(cfg: Config, epochs: Optional[int] = None, iters: Optional[int] = None) -> None:
    """Set the length of a run; all that is a share of it moves with it.

    That is: warm-up and decay, the intervals of validation and checkpoints, and the moments at
    which hooks switch something. "Each epoch" stays each epoch. A length in the unit that the
    run does not count in is converted, for which its data set is read.

    Args:
        cfg: Changed in place.
        epochs: The length in epochs.
        iters: The length in iterations.

    Raises:
        ValueError: The length is no positive whole number, there are two of them, the config has
            none, or the data set cannot be read to convert it.
    """
    if (epochs is None) == (iters is None):
        raise ValueError(f'expected one of epochs and iters, found epochs={epochs}, iters={iters}')
    name, number = ('epochs', epochs) if iters is None else ('iters', iters)
    if number is None or not is_count(number):
        raise ValueError(f'{name}: expected a positive whole number, found {number!r}')
    loop = cfg.get('train_cfg') or {}
    keys = [k for k in _UNITS if is_count(loop.get(k))]
    if len(keys) != 1:
        raise ValueError(f'{name}: expected one of train_cfg.max_epochs and train_cfg.max_iters in '
                         f'the config, found {keys or dict(loop)}')
    key, before = keys[0], dict(loop)
    if key != f'max_{name}':
        length = _epoch_length(cfg, name)
        print_log(f'{name}={number}: this run counts {key[4:]}, an epoch has {length} iterations',
                  logger='current', level=logging.WARNING)
        number = number * length if name == 'epochs' else math.ceil(number / length)
    loop[key] = int(number)
    _scale_intervals(cfg, key, Fraction(loop[key], int(before[key])))
    scale_schedulers(cfg, before, whole=True)


def _epoch_length(cfg: Config, name: str) -> int:
    """Return the batches of an epoch."""
    loader = cfg.train_dataloader
    init_default_scope(scope_of(cfg))
    try:
        with keep_random_numbers():
            count = len(DATASETS.build(loader.dataset))
    except Exception as e:
        raise ValueError(f'{name}: the run counts in the other unit, and the data set that would '
                         f'say how long an epoch is cannot be read: {e or repr(e)}') from e
    # mmengine sets WORLD_SIZE itself for these launchers, but later.
    key = dict(slurm='SLURM_NTASKS', mpi='OMPI_COMM_WORLD_SIZE').get(
        cfg.get('launcher', 'none'), 'WORLD_SIZE')
    own = math.ceil(count / int(os.environ.get(key, '1')))  # of each process
    batches = own / loader.get('batch_size', 1)
    drop_last = loader.get('drop_last') or (loader.get('batch_sampler') or {}).get('drop_last')
    return max(1, math.floor(batches) if drop_last else math.ceil(batches))


def _scale_intervals(cfg: Config, key: str, ratio: Fraction) -> None:
    unit = _UNITS[key]

    def scale(node: Dict[str, Any], name: str) -> None:
        if is_count(node.get(name)) and not (unit == 'epoch' and node[name] == 1):
            node[name] = max(1, int(node[name] * ratio))

    for name in ('val_interval', 'val_begin'):
        scale(cfg.train_cfg, name)
    if cfg.train_cfg.get('dynamic_intervals'):
        cfg.train_cfg.dynamic_intervals = [
            tuple(max(1, int(n * ratio)) if n else n for n in pair)
            for pair in cfg.train_cfg.dynamic_intervals]
    checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint')
    if isinstance(checkpoint, dict) and checkpoint.get('by_epoch', True) == (unit == 'epoch'):
        scale(checkpoint, 'interval')
        scale(checkpoint, 'save_begin')
    # EMAHook, mmdetection's PipelineSwitchHook and YOLOXModeSwitchHook, mmpretrain's
    # SwitchRecipeHook.
    for _, node in walk(cfg.get('custom_hooks')):
        for name in ('begin', 'switch', 'action'):
            scale(node, f'{name}_{unit}')
        scale(node, f'num_last_{unit}s')


def scale_schedulers(cfg: Config, before: Dict[str, Any], whole: bool = False) -> None:
    """Scale warm-up and decay to a length that has changed.

    A warm-up of 1500 iterations in a run of 240 would never end.

    Args:
        cfg: Changed in place.
        before: ``train_cfg`` with the length for which the schedulers are.
        whole: Where a run counts epochs, scale what counts iterations too.
    """
    after = cfg.get('train_cfg') or {}
    for key, unit in _UNITS.items():
        if not is_count(before.get(key)) or not is_count(after.get(key)) \
                or after[key] == before[key]:
            continue
        ratio = Fraction(int(after[key]), int(before[key]))
        for scheduler in as_list(cfg.get('param_scheduler')):
            # A warm-up counted in iterations stays as it is when the epochs change.
            if whole or scheduler.get('by_epoch', True) == (unit == 'epoch'):
                _scale(scheduler, ratio)
        print_log(f'{key} {before[key]} -> {after[key]}: the schedulers '
                  f'{"and intervals are" if whole else "are"} scaled with it'
                  f'{"" if whole else "; set param_scheduler to choose them"}',
                  logger='current', level=logging.WARNING)


def _scale(scheduler: Dict[str, Any], ratio: Fraction) -> None:
    # Rounded down alike, so that one still begins where the one before it ends.
    begin = scheduler['begin'] = int(scheduler.get('begin', 0) * ratio)
    if scheduler.get('end'):
        # A warm-up of one step would never leave its first value.
        least = 1 if scheduler.get('convert_to_iter_based') else 2
        scheduler['end'] = max(begin + least, int(scheduler['end'] * ratio))
    for name in ('T_max', 'total_steps'):  # rounded up, because a cosine rises again beyond T_max
        if scheduler.get(name):
            scheduler[name] = math.ceil(scheduler[name] * ratio)
    if scheduler.get('step_size'):
        scheduler['step_size'] = max(1, int(scheduler['step_size'] * ratio))
    for name in ('milestones', 'periods'):
        if scheduler.get(name):
            scheduler[name] = [max(1, int(m * ratio)) for m in scheduler[name]]
