"""Checks of the data before a run, for what would fail late or never."""
import inspect
import logging
import os.path as osp
from typing import Any, Dict, Iterator, List, Set

import numpy as np
from mmengine import Config
from mmengine.logging import print_log
from mmengine.registry import DATASETS, TRANSFORMS
from mmengine.utils import scandir

__all__ = ['SPLITS', 'check_data', 'iter_datasets', 'step_name']

SPLITS = ('train', 'val', 'test')

# Reading a mask takes milliseconds, and a data set may have tens of thousands.
_MAX_MASKS = 400


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


def step_name(step: Dict[str, Any]) -> str:
    """The name of a pipeline's step, whose type is a name or a class."""
    return getattr(step['type'], '__name__', str(step['type']))


def check_data(cfg: Config, splits: Any) -> None:
    """Checks the files of a config's data sets.

    Args:
        cfg: A config, its default scope initialised.
        splits: Which of ``'train'``, ``'val'`` and ``'test'`` will be used.

    Raises:
        FileNotFoundError: A root, a folder or an annotation file is missing, a
            folder has no images, an image has no mask or a mask no image.
        ValueError: A mask holds a class id that the model has no output for. Of more
            than 400 masks so many are looked at, spread over the data set.
    """
    seen: Set[str] = set()
    for dataset in iter_datasets(cfg, splits):
        fingerprint = repr(sorted((k, str(v)) for k, v in dataset.items()))
        if fingerprint not in seen:
            seen.add(fingerprint)
            _check_files(dataset)
            if 'seg_map_path' in (dataset.get('data_prefix') or {}) and '://' not in str(
                    dataset.get('data_root')):
                _check_masks(dataset, cfg.model)


def _join(root: str, path: str) -> str:
    return path if not root or osp.isabs(path) else osp.join(root, path)


def _check_files(dataset: Dict[str, Any]) -> None:
    root = dataset.get('data_root') or ''
    if '://' in root or _downloads(dataset):
        return
    if root and not osp.isdir(root):
        hint = (f'`python tools/make_scenes.py {root}` writes it'
                if str(dataset['type']).startswith('mmscheme.Scenes') else
                'set it with --data-root DIR or data_root in the config')
        raise FileNotFoundError(f'data root not found: {root} ({hint})')
    ann_file = dataset.get('ann_file')
    if ann_file and not osp.exists(_join(root, ann_file)):
        raise FileNotFoundError(f'annotation file not found: {_join(root, ann_file)}')
    prefix = dataset.get('data_prefix') or {}
    for key, folder in (prefix.items() if isinstance(prefix, dict) else [('', prefix)]):
        if folder is not None and not osp.isdir(_join(root, folder)):
            raise FileNotFoundError(f'folder not found: {_join(root, folder)} '
                                    f'(data_prefix {key} of {dataset["type"]})')


def _downloads(dataset: Dict[str, Any]) -> bool:
    """Whether a data set fetches itself, as CIFAR does in mmpretrain."""
    cls = dataset['type']
    if isinstance(cls, str):
        with DATASETS.switch_scope_and_registry(None) as registry:
            cls = registry.get(cls)
    return cls is not None and 'download' in inspect.signature(cls).parameters


def _check_masks(cfg: Dict[str, Any], model: Dict[str, Any]) -> None:
    """Pairs of image and mask, and the class ids in the masks."""
    dataset = DATASETS.build(dict(cfg, pipeline=[], lazy_init=True))
    samples = dataset.load_data_list()
    image_dir = dataset.data_prefix['img_path']
    mask_dir = dataset.data_prefix['seg_map_path']
    if not samples:
        raise FileNotFoundError(f'no images *{dataset.img_suffix} in {image_dir}')
    expected = {osp.normpath(s['seg_map_path']): s['img_path'] for s in samples}
    # With a list of files the folder may well hold more than the list.
    if not cfg.get('ann_file'):
        for name in sorted(scandir(mask_dir, dataset.seg_map_suffix, recursive=True)):
            mask = osp.normpath(osp.join(mask_dir, name))
            if mask not in expected:
                raise FileNotFoundError(
                    f'mask without image: {mask} (expected an image of that name, '
                    f'*{dataset.img_suffix}, in {image_dir})')
    for mask, image in expected.items():
        if not osp.isfile(mask):
            raise FileNotFoundError(f'image without mask: {image} (expected {mask})')
        if not osp.isfile(image):
            raise FileNotFoundError(f'image not found: {image}')
    num_classes = _num_classes(model)
    if num_classes:
        _check_class_ids(samples, num_classes, cfg, dataset)


def _num_classes(model: Dict[str, Any]) -> int:
    """Classes that all heads of a segmenter have an output for, or 0 where it is not said."""
    model = model.get('module', model)  # test-time augmentation wraps the model
    heads: List[Dict[str, Any]] = []
    for key in ('decode_head', 'auxiliary_head'):
        head = model.get(key) or []
        heads += head if isinstance(head, (list, tuple)) else [head]
    return min((head['num_classes'] for head in heads if head.get('num_classes')), default=0)


def _check_class_ids(samples: List[Dict[str, Any]], num_classes: int, cfg: Dict[str, Any],
                     dataset: Any) -> None:
    loaders = [t for t in cfg.get('pipeline', [])
               if step_name(t).endswith('LoadAnnotations')]
    if not loaders:
        return
    load = TRANSFORMS.build(loaders[0])
    chosen = np.unique(np.linspace(0, len(samples) - 1, min(_MAX_MASKS, len(samples)), dtype=int))
    if len(chosen) < len(samples):
        print_log(f'class ids are checked in {len(chosen)} of the {len(samples)} masks of '
                  f'{dataset.data_prefix["seg_map_path"]}', logger='current', level=logging.INFO)
    for i in chosen:
        path = samples[i]['seg_map_path']
        try:
            labels = load(dict(samples[i]))['gt_seg_map']
        except Exception as e:
            raise ValueError(f'unreadable mask: {path} ({e})') from None
        ids = np.unique(labels)
        wrong = ids[(ids >= num_classes) & (ids != dataset.ignore_index)]
        if wrong.size:
            shift = int(dataset.reduce_zero_label if load.reduce_zero_label is None else
                        load.reduce_zero_label)
            raise ValueError(
                f'class id {int(wrong[0]) + shift} in {path}: the model has num_classes='
                f'{num_classes}, so ids from {shift} to {num_classes - 1 + shift} are expected '
                f'(reduce_zero_label={bool(shift)}, ignored: {dataset.ignore_index})')


