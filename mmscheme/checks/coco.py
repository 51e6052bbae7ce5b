"""Checks of annotation files in COCO's format, for errors that its reader takes or dies of."""
import json
import math
import os.path as osp
from collections import Counter
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

from mmscheme.utils.config_query import as_list

from .findings import Findings

__all__ = ['check_coco', 'is_coco']

_NEEDED = dict(images=('id', 'file_name', 'height', 'width'),
               annotations=('id', 'image_id', 'category_id', 'bbox', 'area'),
               categories=('id', 'name'))

Entry = Dict[str, Any]
Size = Tuple[int, int]


def is_coco(cls: Any) -> bool:
    """Return True if a data set's class reads its annotations as mmdetection's CocoDataset."""
    try:
        from mmdet.datasets import CocoDataset
    except ImportError:
        return False
    return (isinstance(cls, type) and issubclass(cls, CocoDataset)
            and getattr(cls, 'load_data_list', None) is CocoDataset.load_data_list)


def check_coco(dataset: Dict[str, Any], built: Any, findings: Findings) -> Dict[str, Size]:
    """Check the annotation file of a data set, which is built but not initialised.

    Returns:
        The paths of the images that will be read, each with the width and height in the file;
        empty if the file has errors.
    """
    return _AnnotationFile(built.ann_file, findings).check(dataset, built)


class _AnnotationFile:

    def __init__(self, path: str, findings: Findings) -> None:
        self.path, self.findings = path, findings

    def error(self, text: str, kind: str = '') -> None:
        self.findings.error(f'annotation file {self.path}: {text}',
                            kind and f'{kind} of {self.path}')

    def check(self, dataset: Dict[str, Any], built: Any) -> Dict[str, Size]:
        before = len(self.findings.errors)
        content = self.read(getattr(built, 'test_mode', False))
        if content is None:
            return {}
        sizes = self.check_images(content['images'])
        if len(self.findings.errors) > before:
            return {}
        wanted = self.check_categories(content['categories'], built.metainfo.get('classes'))
        needs_masks = any(step.get('with_mask') for step in dataset.get('pipeline') or [])
        usable = self.check_annotations(content, sizes, wanted, needs_masks)
        if len(self.findings.errors) > before:
            return {}
        images = content['images']
        testing = getattr(built, 'test_mode', False)
        filters: Dict[str, Any] = {} if testing else dataset.get('filter_cfg') or {}
        if filters:
            images = [i for i in images
                      if min(i['width'], i['height']) >= filters.get('min_size', 0)
                      and (i['id'] in usable or not filters.get('filter_empty_gt'))]
        if not images:
            self.error(f'no images are left of {len(content["images"])} ({len(usable)} have boxes '
                       f'of the classes; filter_cfg={dict(filters)})')
        folder = str(built.data_prefix.get('img') or built.data_prefix.get('img_path') or '')
        return {osp.join(folder, i['file_name']): (i['width'], i['height']) for i in images}

    def read(self, testing: bool = False) -> Optional[Dict[str, List[Entry]]]:
        """Return the content, or None if it has not the form that a detector needs."""
        try:
            with open(self.path, encoding='utf-8') as f:
                content = json.load(f)
        except (ValueError, RecursionError, MemoryError) as e:
            self.findings.error(f'annotation file is not JSON: {self.path} ({e})')
            return None
        except OSError as e:
            self.findings.error(f'annotation file cannot be read: {self.path} ({e.strerror})')
            return None
        if testing and isinstance(content, dict):  # COCO's own test data have none
            content.setdefault('annotations', [])
        problem = _form_problem(content)
        if problem:
            self.error(problem)
        return None if problem else content

    def check_unique(self, entries: Sequence[Entry], key: str) -> None:
        repeated = [i for i, n in Counter(e['id'] for e in entries).items() if n > 1]
        if repeated:
            self.error(f'{len(repeated)} ids of {key} occur more than once, the first is '
                       f'{_short(repeated[0])}')

    def check_images(self, images: Sequence[Entry]) -> Dict[Any, Size]:
        """Return width and height by id."""
        if not images:
            self.error('its list of images is empty')
        sizes: Dict[Any, Size] = {}
        for i, image in enumerate(images):
            sizes[image['id']] = 0, 0
            name, size = image['file_name'], (image['width'], image['height'])
            if not isinstance(name, str) or '\0' in name:
                self.error(f'images[{i}].file_name: expected text, found {_short(name)}', 'image')
            elif not all(isinstance(side, (int, float)) and 0 < side < 10**6 and side % 1 == 0
                         for side in size):
                self.error(f'images[{i}] ({name}): expected width and height in pixels, found '
                           f'{_short(size[0])} and {_short(size[1])}', 'image')
            else:
                sizes[image['id']] = int(size[0]), int(size[1])
        self.check_unique(images, 'images')
        return sizes

    def check_categories(self, categories: Sequence[Entry], classes: Any) -> Set[Any]:
        """Return the ids of the categories that are classes."""
        if not classes:
            return {c['id'] for c in categories}
        classes, names = as_list(classes), [c['name'] for c in categories]
        self.check_unique(categories, 'categories')
        listed = [n for n in names if n in classes]
        missing = [c for c in classes if c not in names]
        if missing:
            self.error(f'{len(missing)} of {len(classes)} classes are not among its categories, '
                       f'the first: {missing[0]!r}; it has {_short(names)}: set metainfo.classes '
                       'of the data set')
        elif len(listed) > len(classes):
            self.error(f'the name of a category occurs more than once: {_short(listed)}')
        elif listed != classes:
            # mmdetection numbers labels in the order of the file.
            self.error('its categories are in another order than metainfo.classes, so names would '
                       f'be mixed up; write classes={_short(listed)}')
        elif len(names) > len(listed):
            self.findings.warn(f'{self.path}: {len(names) - len(listed)} of {len(names)} '
                               'categories are not classes of the data set and will be left out')
        return {c['id'] for c in categories if c['name'] in classes}

    def check_annotations(self, content: Dict[str, List[Entry]], sizes: Dict[Any, Size],
                          wanted: Set[Any], needs_masks: bool) -> Set[Any]:
        """Return the ids of the images that have boxes of the wanted categories."""
        known = {c['id'] for c in content['categories']}
        usable: Set[Any] = set()
        lost, entries = [], content['annotations']
        bare = [i for i, e in enumerate(entries) if not (e.get('segmentation') or e.get('ignore'))]
        if needs_masks and bare:
            self.error(f'{len(bare)} of {len(entries)} annotations have no segmentation, the first '
                       f'is annotations[{bare[0]}]: add it, or train a detector of boxes (without '
                       'mask_head, with_mask=False in LoadAnnotations)')
            return usable
        for i, entry in enumerate(entries):
            problem = _annotation_problem(entry, sizes, known, needs_masks)
            if problem:
                self.error(f'annotations[{i}] (id {_short(entry["id"])}): {problem}', 'annotation')
            elif not _survives(entry, sizes[entry['image_id']]):
                lost.append(f'annotations[{i}]: bbox {_short(entry["bbox"])}, area '
                            f'{_short(entry["area"])}')
            elif entry['category_id'] in wanted:
                usable.add(entry['image_id'])
        self.check_unique(entries, 'annotations')
        if lost:
            text = (f'{self.path}: {len(lost)} of {len(entries)} boxes are smaller than a pixel, '
                    f'without area or outside of their image and would be left out: {lost[0]}, ...')
            (self.findings.error if 2 * len(lost) > len(entries) else self.findings.warn)(text)
        return usable


def _form_problem(content: Any) -> Optional[str]:
    if not isinstance(content, dict):
        return ('expected an object with images, annotations and categories, found a '
                f'{type(content).__name__}')
    for key, names in _NEEDED.items():
        if not isinstance(content.get(key), list):
            found = type(content[key]).__name__ if key in content else \
                f'the keys {sorted(map(str, content))[:6]}'
            return f'expected a list under {key!r}, found {found}'
        for i, entry in enumerate(content[key]):
            missing = [n for n in names if n not in entry] if isinstance(entry, dict) else names
            if missing:
                return f'{key}[{i}] has no {", ".join(missing)}'
            for n in names:
                if n.endswith('id') and not isinstance(entry[n], (int, str)):
                    return f'{key}[{i}].{n}: expected a number, found {_short(entry[n])}'
    return None


def _numbers(values: List[Any]) -> bool:
    """Return True if all are finite numbers of a size that pixels have; fast for many calls."""
    try:
        return math.isfinite(sum(values)) and max(values) < 1e9 and min(values) > -1e9
    except (TypeError, OverflowError):
        return False


def _annotation_problem(entry: Entry, sizes: Dict[Any, Size], known: Set[Any],
                        needs_masks: bool) -> Optional[str]:
    bbox, mask = entry['bbox'], entry.get('segmentation')
    if entry['image_id'] not in sizes:
        return f'image_id {_short(entry["image_id"])} is not among the images'
    if entry['category_id'] not in known:
        return f'category_id {_short(entry["category_id"])} is not among the categories'
    if not isinstance(bbox, list) or len(bbox) != 4 or not _numbers(bbox):
        return f'bbox: expected four numbers [x, y, width, height], found {_short(bbox)}'
    if not _numbers([entry['area']]):
        return f'area: expected a number, found {_short(entry["area"])}'
    if not needs_masks or entry.get('ignore'):
        return None
    return _segmentation_problem(mask, sizes[entry['image_id']])


def _segmentation_problem(mask: Any, size: Size) -> Optional[str]:
    if isinstance(mask, dict):
        return _rle_problem(mask, size)
    if not isinstance(mask, list):
        return f'segmentation: expected polygons or run lengths, found {_short(mask)}'
    for polygon in mask:
        if not isinstance(polygon, list) or len(polygon) % 2 or len(polygon) < 6 \
                or not _numbers(polygon):
            return ('segmentation: expected polygons of three or more points [x1, y1, x2, y2, '
                    f'...], found {_short(polygon)}')
    return None


def _rle_problem(mask: Entry, size: Size) -> Optional[str]:
    # COCO's reader trusts run lengths and writes as many bytes as they say.
    if mask.get('size') != [size[1], size[0]]:
        return (f'segmentation.size: expected [{size[1]}, {size[0]}] (height, width), found '
                f'{_short(mask.get("size"))}')
    counts = mask.get('counts')
    runs = _run_lengths(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(isinstance(n, int) and n >= 0 for n in runs) \
            or sum(runs) != size[0] * size[1]:
        return (f'segmentation.counts: expected run lengths of {size[0] * size[1]} pixels, found '
                f'{_short(counts)}')
    return None


def _run_lengths(text: str) -> Optional[List[int]]:
    """Decode COCO's text: 5 bits a character, differences to the last run but one."""
    runs: List[int] = []
    value = bits = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            return None
        value |= (code & 31) << bits
        bits += 5
        if not code & 32:
            if code & 16:
                value -= 1 << bits
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = bits = 0
    return runs if not bits else None


def _survives(entry: Entry, size: Size) -> bool:
    """Return True if mmdetection keeps a box."""
    x, y, w, h = entry['bbox']
    inside = min(max(0, min(x + w, size[0]) - max(x, 0)), max(0, min(y + h, size[1]) - max(y, 0)))
    return inside > 0 and entry['area'] > 0 and w >= 1 and h >= 1


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else f'{text[:76]}...'
