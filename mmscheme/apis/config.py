"""Reading a config and fitting it to the command line and the machine."""
import os
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Union

import torch
from mmengine import Config
from mmengine.logging import print_log

__all__ = ['fit_to_machine', 'iter_datasets', 'load_config', 'set_data_root']

SPLITS = ('train', 'val', 'test')


def load_config(path: Union[str, Path], work_dir: Optional[str] = None,
                cfg_options: Optional[Dict[str, Any]] = None,
                data_root: Optional[str] = None) -> Config:
    """Reads a config.

    Args:
        path: Of the config file.
        work_dir: Replaces the config's; ``work_dirs/<name of the config>`` where
            neither says one.
        cfg_options: Values by dotted key, merged into the config.
        data_root: See :func:`set_data_root`.

    Returns:
        The config.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It has no ``model``, so it is not the config of a run.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'config not found: {path}')
    cfg = Config.fromfile(path)
    if cfg_options:
        cfg.merge_from_dict(cfg_options)
    if 'model' not in cfg:
        raise ValueError(f'{path}: expected a config with a `model`, found the keys {sorted(cfg)}')
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = os.path.join('work_dirs', path.stem)
    if data_root is not None:
        set_data_root(cfg, data_root)
    return cfg


def iter_datasets(cfg: Config, splits: Any = SPLITS) -> Iterator[Dict[str, Any]]:
    """The data set dicts that name files, from inside all wrappers.

    Args:
        cfg: A config.
        splits: Which of ``'train'``, ``'val'`` and ``'test'`` to visit.

    Yields:
        The dicts in the config themselves, not copies.
    """
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if loader and 'dataset' in loader:
            yield from _unwrap(loader['dataset'])


def _unwrap(dataset: Dict[str, Any]) -> Iterator[Dict[str, Any]]:
    inner = dataset.get('datasets', dataset.get('dataset'))
    if inner is None:
        yield dataset
    else:
        for child in inner if isinstance(inner, (list, tuple)) else [inner]:
            yield from _unwrap(child)


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


def fit_to_machine(cfg: Config) -> None:
    """Changes what would fail on this machine; says what in the log.

    Args:
        cfg: Changed in place.
    """
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
        if node.get('type') == 'SyncBN':
            node['type'] = 'BN'
            found = True
        children = list(node.values())
    elif isinstance(node, (list, tuple)):
        children = list(node)
    for child in children:
        found |= _replace_sync_bn(child)
    return found
