"""Checks of the data sets of a config: files, masks, annotations and classes."""
import copy
import inspect
import logging
import os.path as osp
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple

import numpy as np
from mmcv.transforms import LoadAnnotations
from mmengine import Config
from mmengine.dataset import Compose
from mmengine.logging import print_log
from mmengine.registry import DATASETS, TRANSFORMS
from mmengine.utils import ProgressBar, scandir
from PIL import Image

from mmscheme.engine.runners.randomness import keep_random_numbers
from mmscheme.utils.config_query import dataset_class, iter_datasets, iter_heads, step_name
from mmscheme.utils.image_files import IMAGE_SUFFIXES, ImageCheck, inspect_image
from mmscheme.visualization.images import ImageReader

from .coco import check_coco, is_coco
from .findings import Findings
from .labels import LabelTable, count_labels, judge_folders, judge_labels, overlaps

__all__ = ['check_data']

# Files that are read of each data set, which may have a million: reading takes milliseconds.
_SAMPLE = 200
# Samples up to which a folder is listed once more.
_MOST_LISTED = 50_000

# The problems of a file: for each its kind, and the line.
Problems = List[Tuple[str, str]]


def check_data(cfg: Config, splits: Sequence[str], every: bool = False,
               findings: Optional[Findings] = None, labels: bool = True) -> Findings:
    """Check the files of a config's data sets.

    These are roots, folders and annotation files, images and masks (also truncated ones, which
    OpenCV accepts), the class ids in masks, the content of COCO's files, and class lists against
    the ``num_classes`` of all heads.

    Args:
        cfg: A config, its default scope initialised.
        splits: The data that will be used, of ``'train'``, ``'val'`` and ``'test'``.
        every: Read all images and masks, not 200 of each data set.
        findings: Findings to add to.
        labels: Check the class lists too.

    Returns:
        The findings; nothing is raised.
    """
    findings = Findings() if findings is None else findings
    seen: Dict[str, List[LabelTable]] = {}
    classes: List[Tuple[str, Sequence[str]]] = []
    # A training is followed by a test: its data are looked at too, but not needed.
    later = ['test'] if {'train', 'val'} <= {*splits} and 'test' not in splits else []
    aside = Findings(findings.most)
    for split, dataset in ((s, d) for s in [*splits, *later] for d in iter_datasets(cfg, (s, ))):
        told = aside if split in later else findings
        fingerprint = repr(sorted((k, str(v)) for k, v in dataset.items()))
        if fingerprint in seen:
            for table in seen[fingerprint] if split != 'train' else ():
                if table.split == 'train':
                    findings.labels.append(copy.copy(table))
                    findings.labels[-1].split = split
            continue
        before = len(told.labels)
        seen[fingerprint] = []
        if '://' in str(dataset.get('data_root')) or _downloads(dataset):
            continue
        missing = list(_missing_files(dataset))
        for line in missing if split not in later else ():
            told.error(line)
        if not missing:
            names = _check_content(cfg, dataset, split, every, told)
            if labels and names and not isinstance(names, str):
                _check_classes(cfg, dataset, names, classes, told)
        seen[fingerprint] = told.labels[before:]
    tables = findings.labels + aside.labels
    for table in tables:
        judge_labels(table, tables, aside if table in aside.labels else findings)
    findings.labels = tables
    for line in [*aside.error_lines(), *aside.warnings]:
        findings.warn(f'test data: {line}')
    for line in overlaps(findings.labels):
        findings.warn(line)
    return findings


def _downloads(dataset: Dict[str, Any]) -> bool:
    """Return True if a data set downloads itself, as CIFAR does in mmpretrain."""
    cls = dataset_class(dataset)
    return cls is not None and 'download' in inspect.signature(cls).parameters


def _type(dataset: Dict[str, Any]) -> str:
    return str(dataset.get('of', dataset['type']))


def _place(dataset: Dict[str, Any]) -> str:
    """Return the words that tell a data set from others."""
    return str(dataset.get('ann_file') or dataset.get('data_prefix') or dataset['type'])


def _missing_files(dataset: Dict[str, Any]) -> Iterator[str]:
    """Name root, folders and annotation file that are not there."""
    root = str(dataset.get('data_root') or '')
    if root and not osp.isdir(root):
        hint = (f'`python -m mmscheme make_scenes {root}` writes it'
                if _type(dataset).startswith('mmscheme.Scenes') else
                'set it with --data-root DIR or data_root in the config')
        yield f'data root not found: {root} ({hint})'
        return
    ann_file = osp.join(root, dataset.get('ann_file') or '')
    if dataset.get('ann_file') and not osp.isfile(ann_file):
        yield f'annotation file not found: {ann_file}'
    elif ann_file.endswith('.txt'):
        with open(ann_file, encoding='utf-8', errors='replace') as f:
            blank = [number for number, line in enumerate(f, 1) if not line.strip()]
        if blank:
            yield f'{ann_file}: line {blank[0]} is blank, expected an image in each: remove it'
    prefix = dataset.get('data_prefix') or {}
    for key, folder in (prefix.items() if isinstance(prefix, dict) else [('', prefix)]):
        if 'seg' in key and not any(step_name(s).endswith('Annotations') and (
                key == 'seg_map_path' or s.get('with_seg')) for s in dataset.get('pipeline') or ()):
            continue  # nothing reads it
        if folder is not None and not osp.isdir(osp.join(root, folder)):
            yield (f'folder not found: {osp.join(root, folder)} (data_prefix {key} of '
                   f'{_type(dataset)})')


def _check_content(cfg: Config, dataset: Dict[str, Any], split: str, every: bool,
                   findings: Findings) -> Optional[Sequence[str]]:
    """Check the images and labels of a data set; return its classes if they are known."""
    cls = dataset_class(dataset)
    if cls is None:
        findings.error(f'data set type {dataset["type"]!r} is in no registry')
        return None
    try:
        with keep_random_numbers():
            built = DATASETS.build(dict(dataset, pipeline=[], lazy_init=True))
    except Exception as e:
        findings.error(f'data set {dataset["type"]}: {e}', cause=e)
        return None
    names = (getattr(built, 'metainfo', None) or {}).get('classes')
    if isinstance(names, str):
        findings.error(f'{_place(dataset)}: metainfo.classes: expected a list of names, found the '
                       f'text {names!r}: write [{names!r}]')
        return None
    table = LabelTable(split, 'images', names or (), _place(dataset))
    table.own_names = bool((dataset.get('metainfo') or {}).get('classes'))
    findings.labels.append(table)
    if 'seg_map_path' in (dataset.get('data_prefix') or {}) and hasattr(built, 'seg_map_suffix') \
            and hasattr(built, 'img_suffix'):
        # The classes that all heads have an output for, or 0.
        limit = len(names) if names else min(
            (head['num_classes'] for _, head in iter_heads(cfg.model)
             if isinstance(head.get('num_classes'), int)), default=0)
        heads = {head.get('ignore_index', 255) for place, head in iter_heads(cfg.model)
                 if place in ('decode_head', 'auxiliary_head')}
        _check_masks(dataset, built, limit, heads or {255}, table, every, findings)
    elif is_coco(cls):
        sizes = check_coco(dataset, built, findings)
        _read_images(list(sizes), every, findings, _image_loader(dataset), sizes, table)
        if sizes and names:
            _count(dataset, built, table, every, findings)
    else:
        names = _check_listed(dataset, built, table, every, findings)
    return names


def _count(dataset: Dict[str, Any], built: Any, table: LabelTable, every: bool,
           findings: Findings) -> None:
    try:
        built.full_init()
        count_labels(table, built, every, findings)
    except Exception as e:
        findings.error(f'data set {dataset["type"]}: {e or repr(e)}', cause=e)


def _check_classes(cfg: Config, dataset: Dict[str, Any], names: Sequence[str],
                   before: List[Tuple[str, Sequence[str]]], findings: Findings) -> None:
    """Compare a data set's class list with those of the heads and of the other data sets."""
    where = _place(dataset)
    before.append((where, names))
    first_where, first = before[0]
    if len(before) > 1:
        if list(first) != list(names):
            differ = sorted(set(map(str, first)) ^ set(map(str, names)))[:3]
            findings.error(f'class lists differ: {first_where} has {len(first)} classes, {where} '
                           f'{len(names)} ({", ".join(differ) or "in another order"}): labels '
                           'would mean different things')
        return
    if dataset.get('return_classes'):  # the text is the input, the head has no classes
        return
    for place, head in iter_heads(cfg.model):
        found = head.get('num_classes')
        if isinstance(found, int) and found != len(names):
            findings.error(f'{place}: num_classes={found}, the data set has {len(names)} classes '
                           f'({", ".join(map(str, names[:3]))}, ...); set '
                           f'model.{place}.num_classes={len(names)} or metainfo.classes')


def _choose(count: int, every: bool, kind: str) -> List[int]:
    """Return the indices of all items, or of some that are spread over the whole."""
    if every or count <= _SAMPLE:
        return list(range(count))
    print_log(f'{_SAMPLE} of {count} {kind} are read; `python -m mmscheme check_config CONFIG '
              '--all` reads all', logger='current', level=logging.INFO)
    return np.unique(np.linspace(0, count - 1, _SAMPLE, dtype=int)).tolist()


def _examine(items: Sequence[Any], examine: Callable[[Any], Problems], every: bool,
             findings: Findings) -> None:
    """Read files, several at a time; with progress if it takes long."""
    bar = ProgressBar(len(items)) if every and len(items) > _SAMPLE else None
    with ThreadPoolExecutor(4) as pool:
        for problems in pool.map(examine, items):
            for kind, line in problems:
                findings.error(line, kind)
            if bar is not None:
                bar.update()
    if bar is not None:
        print()


def _unreadable(kind: str, path: str, problem: Any) -> Problems:
    return [(f'unreadable {kind}', f'unreadable {kind}: {path} ({problem}); replace it, or remove '
             'it from the data set')] if problem else []


def _image_loader(dataset: Dict[str, Any]) -> Optional[ImageReader]:
    """Build the steps of a pipeline, to read images; return None if there are none or it fails."""
    try:
        return ImageReader(dataset['pipeline']) if dataset.get('pipeline') else None
    except Exception:  # the run will say why
        return None


def _inspect(path: str, read: Optional[ImageReader], sample: Dict[str, Any]) -> ImageCheck:
    """Inspect an image, and read it as training will, because decoders differ.

    What a loader of one's own reads need not be an image to others.
    """
    stored = None
    if read is None or read.stock or not osp.isfile(path):
        check = inspect_image(path)
        if check.problem or read is None:
            return check
        stored = check.stored if read.turns else None
    try:
        image = read.read(sample)
    except Exception as e:
        text = ' '.join(str(e).split()) or type(e).__name__
        return ImageCheck('its decoder fails' + (f': {text}' if path not in text else ''))
    return ImageCheck(None, (image.shape[1], image.shape[0]), stored)


def _compare(check: ImageCheck, path: str, size: Optional[Tuple[int, int]], labels: str,
             table: LabelTable) -> Problems:
    """Compare the size of an image with that of its labels."""
    if not check.size or not size or check.size == size:
        if size and check.stored == size:
            table.turned.append(path)
        return []
    turned = ' as its EXIF orientation turns it' if check.stored == size else ''
    return [('image of another size',
             f'image of another size: {path} has {check.size[0]}x{check.size[1]} pixels{turned}, '
             f'{labels} {size[0]}x{size[1]} (width x height)')]


def _read_images(paths: Sequence[str], every: bool, findings: Findings,
                 read: Optional[ImageReader], sizes: Dict[str, Tuple[int, int]],
                 table: LabelTable) -> None:
    """Read images, and compare their sizes with those that annotations give."""

    def examine(path: str) -> Problems:
        if not osp.exists(path):
            return [('image not found', f'image not found: {path} (named by the annotations)')]
        check = _inspect(path, read, dict(img_path=path))
        return _unreadable('image', path, check.problem) + _compare(
            check, path, sizes.get(path), 'its annotations are for', table)

    _examine([paths[i] for i in _choose(len(paths), every, 'images')], examine, every, findings)


def _check_listed(dataset: Dict[str, Any], built: Any, table: LabelTable, every: bool,
                  findings: Findings) -> Optional[Sequence[str]]:
    """Check any other data set that lists its images, for example of classification."""
    where = osp.join(str(dataset.get('data_root') or ''), _place(dataset))
    names: Optional[Sequence[str]] = table.names or None
    if not hasattr(built, 'full_init') or not hasattr(built, 'get_data_info'):
        return names
    try:
        built.full_init()
        samples = [built.get_data_info(i) for i in _choose(len(built), every, 'images')]
    except Exception as e:
        hint = ' (expected a path, a space and a label in each line)' if 'unpack' in str(e) else ''
        findings.error(f'data set {dataset["type"]}: {where}: {e or repr(e)}{hint}', cause=e)
        return names
    for folder in (f for f in getattr(built, 'folder_to_idx', ()) if f.startswith('.')):
        findings.error(f'{where}: the folder {folder} would be a class: remove it')
        return None
    if not len(built):
        findings.error(f'no images in {where} ({dataset["type"]})')
        return names
    names = (built.metainfo or {}).get('classes', names)
    table.names = tuple(names or ())
    _count(dataset, built, table, every, findings)
    judge_folders(table, getattr(built, 'folder_to_idx', {}), findings)
    folder = getattr(built, 'img_prefix', None)
    if folder and not dataset.get('ann_file') and len(built) <= _MOST_LISTED and hasattr(
            built, 'extensions'):
        _warn_of_others(folder, built.extensions, f'extensions={built.extensions}', findings)
    paths = [s['img_path'] for s in samples if isinstance(s.get('img_path'), str)]
    _read_images(paths, True, findings, _image_loader(dataset), {}, table)
    return names


def _warn_of_others(folder: str, suffixes: Sequence[str], told: str, findings: Findings) -> None:
    """Warn about images in a folder that the data set does not read, by their suffix."""
    others = Counter(suffix for name in scandir(folder, recursive=True)
                     if (suffix := osp.splitext(name)[1].lower()) in IMAGE_SUFFIXES
                     and not name.lower().endswith(tuple(suffixes)))
    for suffix, number in others.items():
        findings.warn(f'{folder}: {number} images *{suffix} are not read ({told})')


def _check_masks(cfg: Dict[str, Any], dataset: Any, num_classes: int, ignored: Set[Any],
                 table: LabelTable, every: bool, findings: Findings) -> None:
    """Check the pairs of image and mask, and the labels in the masks."""
    try:
        samples = dataset.load_data_list()
    except Exception as e:
        findings.error(f'data set {cfg["type"]}: {e}', cause=e)
        return
    image_dir, mask_dir = (dataset.data_prefix[k] for k in ('img_path', 'seg_map_path'))
    if not samples:
        found = Counter(osp.splitext(n)[1] for n in scandir(image_dir, recursive=True))
        hint = ', '.join(f'{n} *{suffix}' for suffix, n in found.most_common(3))
        findings.error(f'no images *{dataset.img_suffix} in {image_dir}'
                       + (f', but {hint}: set img_suffix of the data set' if hint else ''))
        return
    try:
        load = _mask_loader(cfg.get('pipeline') or [], samples)
    except Exception as e:
        findings.error(f'the step that reads masks: {e}', cause=e)
        return
    _warn_of_others(image_dir, (dataset.img_suffix, dataset.seg_map_suffix),
                    f'img_suffix={dataset.img_suffix!r}', findings)
    samples = [dict(s, seg_map_path=osp.normpath(s.get('seg_map_path') or '')) for s in samples]
    if load is not None and not any(osp.exists(s['seg_map_path']) for s in samples):
        there = next(scandir(mask_dir, recursive=True), 'no file')
        findings.error(
            f'no image has a mask: expected {samples[0]["seg_map_path"]}, {mask_dir} has {there}: '
            f'set seg_map_suffix, which is {dataset.seg_map_suffix!r}, or leave suffixes out in '
            'the ann_file')
        return
    # With a list of files the folder may well hold more than the list.
    if not cfg.get('ann_file') and load is not None:
        expected = {s['seg_map_path'] for s in samples}
        for name in sorted(scandir(mask_dir, dataset.seg_map_suffix, recursive=True)):
            mask = osp.normpath(osp.join(mask_dir, name))
            if mask not in expected:
                findings.error(f'mask without image: {mask} (expected an image of that name, '
                               f'*{dataset.img_suffix}, in {image_dir})', 'mask without image')
    whole = []
    for sample in samples:
        mask, image = sample['seg_map_path'], sample['img_path']
        if not osp.exists(image):  # a list names it, perhaps with a byte order mark or a suffix
            text = image if image.isprintable() else ascii(image)
            findings.error(f'image not found: {text} (named by {cfg.get("ann_file") or image_dir})',
                           'image not found')
        elif load is not None and not osp.exists(mask):
            findings.error(f'image without mask: {image} (expected {mask})', 'image without mask')
        else:
            whole.append(sample)
    told = getattr(load, 'reduce_zero_label', None)
    if told is not None and bool(told) != bool(dataset.reduce_zero_label):
        findings.error(f'reduce_zero_label={bool(told)} of LoadAnnotations, the data set has '
                       f'reduce_zero_label={bool(dataset.reduce_zero_label)}: set it in the data '
                       'set alone')
        return
    read = _image_loader(cfg)
    chosen = _choose(len(whole), every, f'images and masks of {mask_dir}')
    table.unit, table.total, table.shift = 'pixels', len(samples), int(dataset.reduce_zero_label)
    table.where, table.ignored = mask_dir, ignored if len(ignored) == 1 else set()
    table.ids = {new: old + table.shift for old, new in (dataset.label_map or {}).items()}
    table.files = [s['img_path'] for s in samples]
    _examine([whole[i] for i in chosen],
             lambda s: _pair_problems(s, load, read, num_classes, dataset, ignored, table), every,
             findings)


def _mask_loader(steps: Sequence[Any], samples: Sequence[Dict[str, Any]]) -> Any:
    """Return the step that reads masks, or None; of another name, with all steps before it."""
    for step in steps:
        if step_name(step).endswith('Annotations'):
            return TRANSFORMS.build(step)
    data: Any = next((dict(s) for s in samples if osp.exists(s['img_path'])
                      and osp.exists(s.get('seg_map_path') or '')), {})
    built: List[Any] = []
    try:
        with keep_random_numbers():
            for step in steps if data else ():
                built.append(TRANSFORMS.build(step))
                data = built[-1](data)
                if 'gt_seg_map' in data:
                    return Compose(built)
    except Exception:  # the run will say why
        pass
    return None


def _pair_problems(sample: Dict[str, Any], load: Any, read: Any, num_classes: int, dataset: Any,
                   ignored: Set[Any], table: LabelTable) -> Problems:
    image, mask = sample['img_path'], sample['seg_map_path']
    seen = _inspect(image, read, sample)
    problems = _unreadable('image', image, seen.problem)
    if load is None:
        return problems
    check = inspect_image(mask) if isinstance(load, LoadAnnotations) else ImageCheck(None)
    if check.problem:
        return problems + _unreadable('mask', mask, check.problem)
    try:
        labels = np.asarray(load(dict(sample))['gt_seg_map'])
    except Exception as e:
        return [*problems, ('unreadable mask', f'unreadable mask: {mask} ({e})')]
    if labels.ndim != 2:
        return [*problems, ('mask with channels',
                            f'unusable mask: {mask}: it has {labels.shape[-1]} channels, expected '
                            'one channel of class ids (convert its colours to ids)')]
    if labels.dtype.kind == 'f':  # which becomes integers in PackSegInputs
        found, labels = labels, labels.astype(np.int64)
        if not np.array_equal(found, labels):
            return [*problems, ('mask of fractions', f'unusable mask: {mask}: its loader gives '
                                f'{found[found != labels][0]:g}, expected whole class ids')]
    table.add(labels)
    size = labels.shape[1], labels.shape[0]
    problems += _compare(seen, image, size, f'its mask {mask} has', table)
    stock = type(load).__module__.startswith(('mmcv.', 'mmseg.'))
    return problems + (_id_problems(mask, labels, num_classes, dataset, ignored, stock)
                       if num_classes else [])


def _id_problems(mask: str, labels: np.ndarray, num_classes: int, dataset: Any, ignored: Set[Any],
                 stock: bool) -> Problems:
    shift = int(bool(dataset.reduce_zero_label))
    ids = np.unique(labels)
    wrong = [int(i) + shift for i in ids if not 0 <= i < num_classes and ignored != {i}]
    try:
        with Image.open(mask) as image:  # the frameworks cut its ids to 8 bits
            values = np.asarray(image if stock and image.mode[0] in 'IF' else 0)
            highest = int(values[values != 65535].max(initial=0))  # which becomes 255
    except Exception:  # a format that Pillow does not know
        highest = 0
    if highest > 255:
        wrong = [highest]
    if not wrong:
        return []
    void = dataset.ignore_index
    hint = (f'; to ignore {void}, set ignore_index={void} of all heads, of RandomCrop and of the '
            f'evaluators, and seg_pad_val={void} of the data_preprocessor'
            if wrong[0] == void + shift else '')
    return [('class id', f'class id {wrong[0]} in {mask}: the model has num_classes={num_classes}, '
             f'so ids from {shift} to {num_classes - 1 + shift} are expected '
             f'(reduce_zero_label={bool(shift)}, ignored: '
             f'{", ".join(map(str, sorted(ignored)))}){hint}')]
