"""Reading a config and fitting it to the command line and the machine."""
import inspect
import logging
import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Union

import torch
from mmengine import Config
from mmengine.dataset import BaseDataset
from mmengine.hooks import CheckpointHook, LoggerHook
from mmengine.logging import print_log
from mmengine.registry import HOOKS, LOOPS, Registry, init_default_scope
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from mmscheme.checks import check_run, is_count
from mmscheme.datasets.guarded import POLICIES
from mmscheme.utils.checkpoint_io import register_safe_loaders
from mmscheme.utils.config_query import (
    SPLITS,
    dataset_class,
    find_class,
    iter_datasets,
    scope_of,
    step_name,
)

__all__ = ['bad_data_log', 'load_config', 'prepare_run', 'set_data_root']

# What the tools and frameworks look up in a config beside the runner's arguments.
_KNOWN_KEYS = ('runner_type', 'work_dir', 'auto_scale_lr', 'tta_model', 'tta_pipeline',
               'find_unused_parameters', 'model_wrapper_cfg', 'compile', 'custom_imports',
               'data_preprocessor', 'data_root', 'on_bad_data', 'max_bad_data')

# mmengine's default hooks: only these it lets a config switch off with None.
_STOCK_HOOKS = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')


def load_config(path: Union[str, Path], work_dir: Optional[str] = None,
                cfg_options: Optional[Dict[str, Any]] = None,
                data_root: Optional[str] = None) -> Config:
    """Reads a config.

    Args:
        path: Of the config file.
        work_dir: Replaces the config's; ``work_dirs/<name of the config>`` where
            neither says one.
        cfg_options: Values by dotted key, merged into the config. Where they change
            the length of training and not the schedulers, these are scaled with it.
        data_root: See :func:`set_data_root`.

    Returns:
        The config.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, or has no ``model``, so it is not the config of a run; or
            an option is for a key that nobody looks up.
    """
    path = Path(path)
    if not path.is_file():
        found = ' (that is a folder)' if path.is_dir() else ''
        raise FileNotFoundError(f'config not found: {path}{found}')
    try:
        cfg = Config.fromfile(path)
    except Exception as e:  # a config is code and may raise anything
        text = str(e.args[0]) if isinstance(e, KeyError) and e.args else str(e)
        raise ValueError(f'config cannot be read: {path} ({type(e).__name__}: {text})') from e
    if cfg_options:
        _check_keys(cfg, cfg_options)
        length = _length(cfg)
        cfg.merge_from_dict(cfg_options)
        if not any(key.startswith('param_scheduler') for key in cfg_options):
            _scale_schedulers(cfg, length)
    if 'model' not in cfg:
        raise ValueError(f'{path}: expected a config with a `model`, found the keys {sorted(cfg)}')
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = os.path.join('work_dirs', path.stem)
    cfg.default_scope = scope_of(cfg)
    if data_root is not None:
        set_data_root(cfg, data_root)
    return cfg


def _check_keys(cfg: Config, options: Dict[str, Any]) -> None:
    """Refuses options whose first word is no key of the config nor of a runner."""
    known = {*cfg, *inspect.signature(Runner.__init__).parameters, *_KNOWN_KEYS}
    for key in options:
        word = key.split('.')[0]
        if word not in known:
            close = get_close_matches(word, sorted(known), 1)
            hint = f'; did you mean {close[0]}?' if close else ''
            raise ValueError(f'--cfg-options {key}: the config has no {word!r}{hint}')


def _length(cfg: Config) -> Dict[str, float]:
    """How long a config trains: ``max_iters`` or ``max_epochs``."""
    train_cfg = cfg.get('train_cfg') or {}
    return {k: train_cfg[k] for k in ('max_iters', 'max_epochs') if is_count(train_cfg.get(k))}


def _scale_schedulers(cfg: Config, before: Dict[str, float]) -> None:
    """Scales warm-up and decay to a length that the command line changed.

    A warm-up of 1500 iterations in a run of 240 would never end.
    """
    after = _length(cfg)
    schedulers = cfg.get('param_scheduler') or []
    for key in before:
        if after.get(key, before[key]) == before[key]:
            continue
        ratio = after[key] / before[key]
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
            # A warm-up counted in iterations stays as it is when the epochs change.
            if scheduler.get('by_epoch', True) != (key == 'max_epochs'):
                continue
            # Rounded down alike, so that one still begins where the one before it ends.
            begin = scheduler['begin'] = int(scheduler.get('begin', 0) * ratio)
            if scheduler.get('end'):
                # A warm-up of one step would never leave its first value.
                scheduler['end'] = max(begin + 2, int(scheduler['end'] * ratio))
            for name in ('T_max', 'total_steps'):
                if scheduler.get(name):
                    scheduler[name] = max(1, int(scheduler[name] * ratio))
            if scheduler.get('milestones'):
                scheduler['milestones'] = [int(m * ratio) for m in scheduler['milestones']]
        print_log(f'{key} {before[key]} -> {after[key]}: the schedulers are scaled with it; set '
                  'param_scheduler to choose them', logger='current', level=logging.WARNING)


def set_data_root(cfg: Config, data_root: str) -> None:
    """Replaces the root of every data set in a config.

    Files that evaluators read below the old root (COCO's annotations) follow.

    Args:
        cfg: Changed in place.
        data_root: The new root.
    """
    old_roots = {d['data_root'] for d in iter_datasets(cfg) if d.get('data_root')}
    for dataset in iter_datasets(cfg):
        dataset['data_root'] = data_root
    cfg.data_root = data_root
    for split in SPLITS:
        evaluators = cfg.get(f'{split}_evaluator') or []
        for evaluator in evaluators if isinstance(evaluators, list) else [evaluators]:
            for key, value in evaluator.items():
                for old in old_roots:
                    prefix = old.rstrip('/') + '/'
                    if isinstance(value, str) and value.startswith(prefix):
                        evaluator[key] = os.path.join(data_root, value[len(prefix):])


def prepare_run(cfg: Config, splits: Sequence[str], preflight: bool = True) -> None:
    """What training and testing share before a runner is built.

    Checkpoints are read safely and written plainly and durably, and runs resume exactly, also
    with a config that is not ours; the run is checked; what would fail on this machine is
    changed, and the log says so.

    Args:
        cfg: Changed in place.
        splits: The data that will be used, of ``'train'``, ``'val'`` and ``'test'``.
        preflight: Whether the run is checked, in the first process; see
            :func:`mmscheme.checks.check_run`.

    Raises:
        UserErrors: What the checks have found.
    """
    register_safe_loaders()
    init_default_scope(scope_of(cfg))
    _use_own_parts(cfg)
    rank = os.environ.get('RANK') or os.environ.get('SLURM_PROCID') or '0'
    if preflight and rank == '0':
        check_run(cfg, splits).finish()
    _guard_data(cfg, splits)
    _fit_to_machine(cfg)


def _use_own_parts(cfg: Config) -> None:
    """Puts our loops and hooks in the place of mmengine's, however a config names these.

    A class that a user has derived from one stays.
    """
    loop = cfg.get('train_cfg') or {}
    if 'type' not in loop and 'by_epoch' in loop:
        loop['type'] = 'EpochBasedTrainLoop' if loop.pop('by_epoch') else 'IterBasedTrainLoop'
    _replace(LOOPS, loop, (EpochBasedTrainLoop, IterBasedTrainLoop))
    if cfg.get('default_hooks') is None:
        cfg.default_hooks = {}
    hooks = cfg.default_hooks
    # What mmengine adds itself where a config has none.
    for name, stock in (('checkpoint', dict(type='CheckpointHook', interval=1)),
                        ('logger', dict(type='LoggerHook'))):
        if hooks.setdefault(name, stock) is not None:
            hooks[name].setdefault('type', stock['type'])
    hooks.setdefault('plain_checkpoint', dict(type='mmscheme.PlainCheckpointHook'))
    for name in [n for n, hook in hooks.items() if hook is None and n not in _STOCK_HOOKS]:
        hooks.pop(name)
    for hook in (*hooks.values(), *(cfg.get('custom_hooks') or ())):
        _replace(HOOKS, hook, (CheckpointHook, LoggerHook))


def _replace(registry: Registry, node: Any, stock: Sequence[type]) -> None:
    cls = find_class(registry, node.get('type')) if isinstance(node, dict) else None
    if cls is not None and cls in stock:
        node['type'] = f'mmscheme.{cls.__name__}'


def bad_data_log(cfg: Config) -> str:
    """The file of the samples that a training has skipped."""
    return os.path.join(cfg.work_dir, 'bad_data.jsonl')


def _guard_data(cfg: Config, splits: Sequence[str]) -> None:
    """Makes the data sets of a run name the files that cannot be used.

    Those of validation and testing always stop there: a metric is of all data.
    """
    policy = cfg.get('on_bad_data') or 'stop'
    limit = cfg.get('max_bad_data', 100)
    if policy not in POLICIES:
        raise ValueError(f'on_bad_data: expected one of {list(POLICIES)}, found {policy!r}')
    for split in splits:
        for dataset in iter_datasets(cfg, (split, )):
            cls = dataset_class(dataset)
            if 'of' in dataset or not isinstance(cls, type) or not issubclass(cls, BaseDataset):
                continue
            kind = dataset['type']
            dataset['of'] = kind if isinstance(kind, str) else f'{cls.__module__}.{cls.__name__}'
            dataset['type'] = 'mmscheme.GuardedDataset'
            dataset['training'] = split == 'train'
            if split == 'train':
                dataset.update(on_bad_data=policy, max_bad_data=limit,
                               bad_data_log=bad_data_log(cfg))


def _fit_to_machine(cfg: Config) -> None:
    """Changes what torch or mmengine refuse here."""
    for split in SPLITS:
        loader = cfg.get(f'{split}_dataloader')
        if loader and not loader.get('num_workers'):
            loader['persistent_workers'] = False  # torch refuses it without workers
    if not torch.cuda.is_available() and cfg.get('launcher', 'none') == 'pytorch':
        # Several processes on a CPU. mmengine's own start would choose a GPU first, and
        # SyncBN has no CPU form; in one process mmengine replaces it itself.
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group('gloo')
        cfg.setdefault('model_wrapper_cfg', dict(
            type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False))
        if _replace_sync_bn(cfg.model):
            print_log('no GPU: SyncBN is built as BN, statistics are those of each process',
                      logger='current')


def _replace_sync_bn(node: Any) -> bool:
    found = False
    children: List[Any] = []
    if isinstance(node, dict):
        if step_name(node) in ('SyncBN', 'SyncBatchNorm'):
            node['type'] = 'BN'
            found = True
        children = list(node.values())
    elif isinstance(node, (list, tuple)):
        children = list(node)
    for child in children:
        found |= _replace_sync_bn(child)
    return found
