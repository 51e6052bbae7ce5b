"""Read a config, and fit it to the command line and the machine."""
import inspect
import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Union

import torch
from mmengine import Config
from mmengine.dataset import BaseDataset
from mmengine.hooks import CheckpointHook, LoggerHook
from mmengine.logging import print_log
from mmengine.registry import HOOKS, LOOPS, Registry, init_default_scope
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from mmscheme.checks import check_run
from mmscheme.datasets.guarded import POLICIES
from mmscheme.models.one_channel import use_own_parts
from mmscheme.utils.checkpoint_io import use_safe_checkpoints
from mmscheme.utils.config_query import (
    SPLITS,
    as_list,
    dataset_class,
    find_class,
    iter_datasets,
    iter_hooks,
    scope_of,
    step_name,
    walk,
)

from .run_length import apply_length, scale_schedulers

__all__ = ['bad_data_log', 'load_config', 'prepare_run', 'set_data_root']

# Keys that the tools and frameworks look up in a config beside the runner's arguments.
_KNOWN_KEYS = ('runner_type', 'work_dir', 'auto_scale_lr', 'tta_model', 'tta_pipeline',
               'find_unused_parameters', 'model_wrapper_cfg', 'compile', 'custom_imports',
               'data_preprocessor', 'data_root', 'on_bad_data', 'max_bad_data', 'mmscheme')

# Keys of a data set that choose its files below data_root, whatever their values.
_FILES = ('type', 'ann_file', 'data_prefix')

# mmengine's default hooks: only these it lets a config switch off with None.
_STOCK_HOOKS = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')


def load_config(path: Union[str, Path], work_dir: Optional[str] = None,
                cfg_options: Optional[Dict[str, Any]] = None,
                data_root: Optional[str] = None, epochs: Optional[int] = None,
                iters: Optional[int] = None) -> Config:
    """Read a config; from then on checkpoints of this process are read without running code.

    Args:
        path: Path of the config file.
        work_dir: Folder that replaces the config's; ``work_dirs/<name of the config>`` if
            neither names one.
        cfg_options: Values by dotted key, merged into the config. If they change the length
            of training and not the schedulers, these are scaled with it.
        data_root: See :func:`set_data_root`.
        epochs, iters: Length of a training, which is set when it starts; see
            :func:`mmscheme.apis.run_length.set_length`. In a config the same is
            ``mmscheme=dict(epochs=N)`` or ``mmscheme=dict(iters=N)``.

    Returns:
        The config.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, or has no ``model``, so it is not the config of a run; or
            an option is for a key that nobody looks up.
    """
    use_safe_checkpoints()
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
        length = dict(cfg.get('train_cfg') or {})
        cfg.merge_from_dict(cfg_options)
        if not any(key.startswith('param_scheduler') for key in cfg_options):
            scale_schedulers(cfg, length)
        if {'train_cfg.max_iters', 'train_cfg.max_epochs'} & {*cfg_options}:
            cfg.pop('mmscheme', None)  # the last word counts
    if 'model' not in cfg:
        raise ValueError(f'{path}: expected a config with a `model`, found the keys {sorted(cfg)}')
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = os.path.join('work_dirs', path.stem)
    cfg.default_scope = scope_of(cfg)
    if data_root is not None:
        set_data_root(cfg, data_root)
    if epochs is not None or iters is not None:
        cfg.mmscheme = {k: v for k, v in (('epochs', epochs), ('iters', iters)) if v is not None}
    return cfg


def _check_keys(cfg: Config, options: Dict[str, Any]) -> None:
    """Refuse options whose first word is a key neither of the config nor of a runner."""
    known = {*cfg, *inspect.signature(Runner.__init__).parameters, *_KNOWN_KEYS}
    for key in options:
        word = key.split('.')[0]
        if word not in known:
            close = get_close_matches(word, sorted(known), 1)
            hint = f'; did you mean {close[0]}?' if close else ''
            raise ValueError(f'--cfg-options {key}: the config has no {word!r}{hint}')


def set_data_root(cfg: Config, data_root: str) -> None:
    """Replace the root of every data set in a config.

    Files that evaluators read below the old root (COCO's annotations) follow.

    Args:
        cfg: Changed in place.
        data_root: The new root.

    Raises:
        ValueError: Data sets of different roots would read the same files.
    """
    datasets = list(iter_datasets(cfg))
    old_roots = {d['data_root'] for d in datasets if d.get('data_root')}
    roots: Dict[str, str] = {}
    for dataset in datasets:
        # What chooses files below a root; filters, modes and pipelines do not.
        files = repr([(k, v) for k, v in sorted(dataset.items()) if k in _FILES or (
            isinstance(v, str) and k != 'data_root')])
        root = str(dataset.get('data_root') or '').rstrip('/')
        if roots.setdefault(files, root) != root:
            raise ValueError(f'--data-root {data_root}: expected data sets that differ in more '
                             f'than their root ({", ".join(sorted(old_roots))}): set data_root of '
                             'each in the config')
    for dataset in datasets:
        dataset['data_root'] = data_root
    cfg.data_root = data_root
    prefixes = [old.rstrip('/') + '/' for old in old_roots]
    for split in SPLITS:
        for evaluator in as_list(cfg.get(f'{split}_evaluator')):
            for key, value in evaluator.items():
                # The longest, because one root may be in another.
                prefix = max((p for p in prefixes if isinstance(value, str)
                              and value.startswith(p)), key=len, default='')
                if prefix:
                    evaluator[key] = os.path.join(data_root, value[len(prefix):])


def prepare_run(cfg: Config, splits: Sequence[str], preflight: bool = True,
                stock_runtime: bool = False) -> None:
    """Prepare a config for training or testing.

    mmengine's training loops, checkpoint and logger hooks are replaced by ours, so that runs
    resume exactly; data sets name the files that cannot be read; settings that this machine
    does not support are changed. The log has a line for each replacement. The run is checked,
    and checkpoints of this process are read without running code from them.

    Args:
        cfg: Changed in place.
        splits: The data that will be used, of ``'train'``, ``'val'`` and ``'test'``.
        preflight: Check the run, in the first process; see
            :func:`mmscheme.checks.check_run`.
        stock_runtime: Replace nothing.

    Raises:
        UserErrors: The checks found errors.
    """
    use_safe_checkpoints()
    init_default_scope(scope_of(cfg))
    if 'train' in splits:
        apply_length(cfg)
    if not stock_runtime:
        _use_own_parts(cfg)
    rank = os.environ.get('RANK') or os.environ.get('SLURM_PROCID') or '0'
    if preflight and rank == '0':
        check_run(cfg, splits, stock_runtime=stock_runtime).finish()
    if not stock_runtime:
        _guard_data(cfg, splits)
        _fit_to_machine(cfg)


def _log_change(place: str, change: str, why: str) -> None:
    print_log(f'{place}: {change}, {why}; --stock-runtime (stock_runtime=True) leaves it as it is',
              logger='current')


def _use_own_parts(cfg: Config) -> None:
    """Replace mmengine's loops and hooks by ours, however a config names them.

    A class that a user has derived from one stays.
    """
    loop = cfg.get('train_cfg') or {}
    if 'type' not in loop and 'by_epoch' in loop:
        loop['type'] = 'EpochBasedTrainLoop' if loop.pop('by_epoch') else 'IterBasedTrainLoop'
    _replace(LOOPS, loop, 'train_cfg.type', {
        EpochBasedTrainLoop: 'which resumes exactly', IterBasedTrainLoop: 'which resumes exactly'})
    if cfg.get('default_hooks') is None:
        cfg.default_hooks = {}
    hooks = cfg.default_hooks
    # mmengine itself adds these two where a config has none.
    for name, stock in (('checkpoint', dict(type='CheckpointHook', interval=1)),
                        ('logger', dict(type='LoggerHook'))):
        if hooks.setdefault(name, stock) is not None:
            hooks[name].setdefault('type', stock['type'])
    scheme = any(step_name(node).startswith('SCHEME') for _, node in walk(cfg.model))
    for name, kind, why in (
            ('plain_checkpoint', 'PlainCheckpointHook',
             "whose checkpoints torch's safe default can load"),
            ('resumed_schedule', 'ResumedScheduleHook',
             'with which a run that is resumed with another length follows the new schedule'),
            ('mixing_weights', 'MixingWeightsHook', 'which says if CCA has decayed')):
        if name not in hooks and (scheme or name != 'mixing_weights'):
            hooks[name] = dict(type=f'mmscheme.{kind}')
            _log_change(f'default_hooks.{name}', f'added mmscheme.{kind}', why)
    for name in [n for n, hook in hooks.items() if hook is None and n not in _STOCK_HOOKS]:
        hooks.pop(name)
    for place, hook in iter_hooks(cfg):
        _replace(HOOKS, hook, f'{place}.type', {
            CheckpointHook: 'which leaves readable checkpoints after a kill or a full disk',
            LoggerHook: 'which writes the metrics of a test in one process'})
    for place, kind, why in use_own_parts(cfg):
        _log_change(place, f'{kind} is replaced by mmscheme.{kind}', why)


def _replace(registry: Registry, node: Any, place: str, stock: Dict[type, str]) -> None:
    cls = find_class(registry, node.get('type')) if isinstance(node, dict) else None
    if cls is not None and cls in stock:
        node['type'] = f'mmscheme.{cls.__name__}'
        _log_change(place, f'{cls.__name__} is replaced by {node["type"]}', stock[cls])


def bad_data_log(cfg: Config) -> str:
    """Return the path of the file that lists the samples which a training has skipped."""
    return os.path.join(cfg.work_dir, 'bad_data.jsonl')


def _guard_data(cfg: Config, splits: Sequence[str]) -> None:
    """Make the data sets of a run name the files that cannot be used.

    Those of validation and testing always stop there, because a metric is of all data.
    """
    policy = cfg.get('on_bad_data') or 'stop'
    limit = cfg.get('max_bad_data', 100)
    if policy not in POLICIES:
        raise ValueError(f'on_bad_data: expected one of {list(POLICIES)}, found {policy!r}')
    for split in splits:
        guarded = []
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
            guarded.append(dataset['of'])
        if guarded:
            _log_change(f'{split}_dataloader.dataset', f'{", ".join(guarded)} is wrapped in '
                        'mmscheme.GuardedDataset', 'which names files that cannot be read')


def _fit_to_machine(cfg: Config) -> None:
    """Change what torch or mmengine refuse on this machine."""
    for split in SPLITS:
        loader = cfg.get(f'{split}_dataloader')
        if loader and not loader.get('num_workers') and loader.get('persistent_workers'):
            loader['persistent_workers'] = False
            _log_change(f'{split}_dataloader.persistent_workers', 'True is replaced by False',
                        'because torch refuses it without workers')
    if torch.cuda.is_available() or cfg.get('launcher', 'none') != 'pytorch':
        return
    # Several processes on a CPU. mmengine's own start would choose a GPU first, and
    # SyncBN has no CPU form; in one process mmengine replaces it itself.
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')
    if 'model_wrapper_cfg' not in cfg:
        cfg.model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None,
                                     broadcast_buffers=False)
        _log_change('model_wrapper_cfg', 'MMDistributedDataParallel gets no devices',
                    'because there is no GPU')
    if _replace_sync_bn(cfg.model):
        _log_change('model', 'SyncBN is replaced by BN', 'because there is no GPU: statistics '
                    'are those of each process')


def _replace_sync_bn(model: Any) -> bool:
    layers = [node for _, node in walk(model) if step_name(node) in ('SyncBN', 'SyncBatchNorm')]
    for layer in layers:
        layer['type'] = 'BN'
    return bool(layers)
