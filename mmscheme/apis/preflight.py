"""Checks of the data before a run, for what would fail late or never."""
import os.path as osp
from typing import Any, Dict, List, Set

import numpy as np
from mmengine import Config
from mmengine.registry import DATASETS, TRANSFORMS
from mmengine.utils import scandir

from mmscheme.apis.config import iter_datasets

__all__ = ['check_data']

# Reading a mask takes milliseconds; so many are looked at, spread over the data set.
_MAX_MASKS = 400


def check_data(cfg: Config, splits: Any) -> None:
    """Checks the files of a config's data sets.

    Args:
        cfg: A config, its default scope initialised.
        splits: Which of ``'train'``, ``'val'`` and ``'test'`` will be used.

    Raises:
        FileNotFoundError: A root, a folder or an annotation file is missing, a
            folder has no images, an image has no mask or a mask no image.
        ValueError: A mask holds a class id that the model has no output for.
    """
    seen: Set[str] = set()
    for dataset in iter_datasets(cfg, splits):
        fingerprint = repr(sorted((k, str(v)) for k, v in dataset.items()))
        if fingerprint not in seen:
            seen.add(fingerprint)
            _check_files(dataset)
            if 'seg_map_path' in dataset.get('data_prefix', {}):
                _check_masks(dataset, cfg.model)


def _join(root: str, path: str) -> str:
    return path if not root or osp.isabs(path) else osp.join(root, path)


def _check_files(dataset: Dict[str, Any]) -> None:
    root = dataset.get('data_root') or ''
    if root and not osp.isdir(root):
        hint = (f'`python tools/make_scenes.py {root}` writes it'
                if str(dataset['type']).endswith('ScenesDataset') else
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
    """Classes of a segmenter's main head, or 0 where the config does not say."""
    if 'module' in model:  # test-time augmentation wraps the model
        model = model['module']
    head = model.get('decode_head') or {}
    head = head[-1] if isinstance(head, (list, tuple)) else head
    return head.get('num_classes', 0)


def _check_class_ids(samples: List[Dict[str, Any]], num_classes: int, cfg: Dict[str, Any],
                     dataset: Any) -> None:
    loaders = [t for t in cfg.get('pipeline', []) if str(t['type']).endswith('LoadAnnotations')]
    if not loaders:
        return
    load = TRANSFORMS.build(loaders[0])
    chosen = np.unique(np.linspace(0, len(samples) - 1, min(_MAX_MASKS, len(samples)), dtype=int))
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


