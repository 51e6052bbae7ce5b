"""Checks of annotation files in COCO's format, for what its reader takes or dies of."""
import json
import math
import os.path as osp
from collections import Counter
from typing import Any, Dict, List, Optional, Sequence, Tuple

from mmscheme.utils.config_query import as_list

from .findings import Findings

__all__ = ['check_coco', 'is_coco', 'read_coco']

_NEEDED = dict(images=('id', 'file_name', 'height', 'width'),
               annotations=('id', 'image_id', 'category_id', 'bbox', 'area'),
               categories=('id', 'name'))
_IDS = dict(images=('id', ), annotations=('id', 'image_id', 'category_id'), categories=('id', ))

Image = Tuple[str, Optional[Tuple[int, int]]]


def is_coco(cls: Any) -> bool:
    """Whether a data set's class reads its annotations as mmdetection's CocoDataset does."""
    try:
        from mmdet.datasets import CocoDataset
    except ImportError:
        return False
    return (isinstance(cls, type) and issubclass(cls, CocoDataset)
            and getattr(cls, 'load_data_list', None) is CocoDataset.load_data_list)


def read_coco(path: str, findings: Findings) -> Optional[Dict[str, List[Dict[str, Any]]]]:
    """Reads an annotation file and checks that all a detector needs has the form it needs.

    Args:
        path: Of the file.
        findings: Where faults are added.

    Returns:
        The content, or None when it has another form.
    """
    try:
        with open(path, encoding='utf-8') as f:
            content = json.load(f)
    except (ValueError, RecursionError, MemoryError) as e:
        findings.error(f'annotation file is not JSON: {path} ({e})')
        return None
    except OSError as e:
        findings.error(f'annotation file cannot be read: {path} ({e.strerror})')
        return None
    if not isinstance(content, dict):
        findings.error(f'annotation file {path}: expected an object with images, annotations and '
                       f'categories, found a {type(content).__name__}')
        return None
    for key, names in _NEEDED.items():
        if not isinstance(content.get(key), list):
            found = type(content[key]).__name__ if key in content else \
                f'the keys {sorted(map(str, content))[:6]}'
            findings.error(f'annotation file {path}: expected a list under {key!r}, found {found}')
            return None
        for i, entry in enumerate(content[key]):
            missing = [n for n in names if n not in entry] if isinstance(entry, dict) else names
            if missing:
                findings.error(f'annotation file {path}: {key}[{i}] has no {", ".join(missing)}')
                return None
            wrong = [n for n in _IDS[key] if not isinstance(entry[n], (int, str))]
            if wrong:
                findings.error(f'annotation file {path}: {key}[{i}].{wrong[0]}: expected a number, '
                               f'found {_short(entry[wrong[0]])}')
                return None
    return content


def check_coco(dataset: Dict[str, Any], built: Any, findings: Findings) -> List[Image]:
    """Checks the annotation file of a data set.

    Args:
        dataset: Its dict in the config.
        built: The data set, not initialised.
        findings: Where faults and doubts are added.

    Returns:
        The images that will be read, each a path with the width and height that the file gives.
    """
    path = built.ann_file
    content = read_coco(path, findings)
    if content is None:
        return []
    before = len(findings.errors)
    sizes = _check_images(content['images'], path, findings)
    if len(findings.errors) > before:
        return []
    wanted = _check_categories(content, built.metainfo.get('classes'), path, findings)
    needs_masks = any(step.get('with_mask') for step in dataset.get('pipeline') or [])
    usable = set()
    outside = 0
    known = {c['id'] for c in content['categories']}
    for i, entry in enumerate(content['annotations']):
        problem = _annotation_problem(entry, sizes, known, needs_masks)
        if problem:
            findings.error(f'annotation file {path}: annotations[{i}] (id {_short(entry["id"])}): '
                           f'{problem}', f'annotation of {path}')
        elif not _survives(entry, sizes[entry['image_id']]):
            outside += 1
        elif entry['category_id'] in wanted:
            usable.add(entry['image_id'])
    _unique(content['annotations'], 'annotations', path, findings)
    if outside:
        findings.warn(f'{path}: {outside} of {len(content["annotations"])} boxes are empty or '
                      'outside of their image and will be left out')
    if len(findings.errors) > before:
        return []
    training = not getattr(built, 'test_mode', False)
    filters = dataset.get('filter_cfg') or {}
    images = content['images']
    if training and filters.get('filter_empty_gt'):
        images = [i for i in images if i['id'] in usable]
    if training and filters:
        images = [i for i in images
                  if min(i['width'], i['height']) >= filters.get('min_size', 0)]
    if not images:
        findings.error(f'annotation file {path}: no images are left of {len(content["images"])} '
                       f'({len(usable)} have boxes of the classes; filter_cfg={dict(filters)})')
    folder = str(built.data_prefix.get('img') or built.data_prefix.get('img_path') or '')
    return [(osp.join(folder, i['file_name']), (i['width'], i['height'])) for i in images]





def _check_images(images: Sequence[Dict[str, Any]], path: str, findings: Findings
                  ) -> Dict[Any, Tuple[int, int]]:
    sizes: Dict[Any, Tuple[int, int]] = {}
    if not images:
        findings.error(f'annotation file {path}: its list of images is empty')
    for i, image in enumerate(images):
        where = f'annotation file {path}: images[{i}]'
        if not isinstance(image['file_name'], str) or '\0' in image['file_name']:
            findings.error(f'{where}.file_name: expected text, found {_short(image["file_name"])}',
                           f'image of {path}')
        elif not all(isinstance(image[k], int) and 0 < image[k] < 10**6
                     for k in ('height', 'width')):
            findings.error(f'{where} ({image["file_name"]}): expected width and height in pixels, '
                           f'found {_short(image["width"])} and {_short(image["height"])}',
                           f'image of {path}')
        sizes[image['id']] = image['width'], image['height']
    _unique(images, 'images', path, findings)
    return sizes


def _unique(entries: Sequence[Dict[str, Any]], key: str, path: str, findings: Findings) -> None:
    twice = [i for i, n in Counter(e['id'] for e in entries).items() if n > 1]
    if twice:
        findings.error(f'annotation file {path}: {len(twice)} ids of {key} are there more than '
                       f'once, the first: {_short(twice[0])}')


def _check_categories(content: Dict[str, Any], classes: Any, path: str, findings: Findings) -> set:
    """The ids of the categories that are classes."""
    names = [c['name'] for c in content['categories']]
    if not classes:
        return {c['id'] for c in content['categories']}
    _unique(content['categories'], 'categories', path, findings)
    listed = [n for n in names if n in as_list(classes)]
    missing = [c for c in as_list(classes) if c not in names]
    if missing:
        findings.error(f'annotation file {path}: {len(missing)} of {len(classes)} classes are not '
                       f'among its categories, the first: {missing[0]!r}; it has '
                       f'{_short(names)}: set metainfo.classes of the data set')
    elif len(listed) > len(classes):
        findings.error(f'annotation file {path}: the name of a category is there more than once: '
                       f'{_short(listed)}')
    elif listed != list(classes):
        # mmdetection numbers labels in the order of the file.
        findings.error(f'annotation file {path}: its categories have another order than '
                       'metainfo.classes, so names would be mixed up; write '
                       f'classes={_short(listed)}')
    elif len(names) > len(listed):
        findings.warn(f'{path}: {len(names) - len(listed)} of {len(names)} categories are not '
                      'classes of the data set and will be left out')
    return {c['id'] for c in content['categories'] if c['name'] in as_list(classes)}


def _numbers(values: List[Any]) -> bool:
    """Whether these are finite numbers of a size that pixels have; fast, for there are many."""
    try:
        return math.isfinite(sum(values)) and max(values) < 1e9 and min(values) > -1e9
    except (TypeError, OverflowError):
        return False


def _annotation_problem(entry: Dict[str, Any], sizes: Dict[Any, Tuple[int, int]], known: set,
                        needs_masks: bool) -> Optional[str]:
    bbox = entry['bbox']
    if entry['image_id'] not in sizes:
        return f'image_id {_short(entry["image_id"])} is not among the images'
    if entry['category_id'] not in known:
        return f'category_id {_short(entry["category_id"])} is not among the categories'
    if not isinstance(bbox, list) or len(bbox) != 4 or not _numbers(bbox):
        return f'bbox: expected four numbers [x, y, width, height], found {_short(bbox)}'
    if not _numbers([entry['area']]):
        return f'area: expected a number, found {_short(entry["area"])}'
    if entry.get('segmentation') is None and not needs_masks or entry.get('ignore'):
        return None
    return _segmentation_problem(entry.get('segmentation'), sizes[entry['image_id']], needs_masks)


def _segmentation_problem(mask: Any, size: Tuple[int, int], needed: bool) -> Optional[str]:
    if isinstance(mask, dict):
        return _rle_problem(mask, size)
    if not isinstance(mask, list) or needed and not mask:
        return f'segmentation: expected polygons or run lengths, found {_short(mask)}'
    for polygon in mask:
        if not isinstance(polygon, list) or len(polygon) % 2 or len(polygon) < 6 \
                or not _numbers(polygon):
            return ('segmentation: expected polygons of three or more points [x1, y1, x2, y2, '
                    f'...], found {_short(polygon)}')
    return None


def _rle_problem(mask: Dict[str, Any], size: Tuple[int, int]) -> Optional[str]:
    """COCO's reader trusts run lengths and writes as many bytes as they say."""
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
    """Run lengths from COCO's text: 5 bits a character, differences to the last but one."""
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


def _survives(entry: Dict[str, Any], size: Tuple[int, int]) -> bool:
    """Whether mmdetection keeps a box."""
    x, y, w, h = entry['bbox']
    inside = min(max(0, min(x + w, size[0]) - max(x, 0)), max(0, min(y + h, size[1]) - max(y, 0)))
    return inside > 0 and entry['area'] > 0 and w >= 1 and h >= 1


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else f'{text[:76]}...'
