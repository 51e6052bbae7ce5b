"""Boxes for detection, of COCO, VOC and YOLO files, and one COCO file for each split."""
import json
import os
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from mmscheme.utils.config_query import as_list

from .samples import Sample, few, measure, pair, photographs, split_in

__all__ = ['Box', 'find_boxes', 'write_coco']


class Box(NamedTuple):
    """A labelled box.

    Attributes:
        name: Of the class.
        bbox: Left, top, width, height in pixels.
        segmentation: Polygons or RLE, as in COCO's files; None without.
        crowd: It counts neither as an object nor as background.
    """
    name: str
    bbox: List[float]
    segmentation: Any = None
    crowd: bool = False


def find_boxes(files: Sequence[Path], root: Path, source: Optional[str],
               classes: Optional[Sequence[str]], notes: List[str]
               ) -> Tuple[List[Sample], List[str]]:
    """Find the labelled images of a folder.

    Args:
        files: All files below the root.
        root: The folder.
        source: ``'coco'``, ``'voc'`` or ``'yolo'``; None to find out.
        classes: Names of YOLO's classes where no file has them.
        notes: Lines for the user, which are added to.

    Returns:
        The samples, and the names of their classes in the order of the source.

    Raises:
        ValueError: There are no labels of that kind, those of several, or they are broken; or
            supervision, which reads those of VOC and YOLO, is missing.
    """
    coco = _coco_files(files) if source in (None, 'coco') else {}
    xml = [p for p in files if p.suffix.lower() == '.xml' and _is_voc(p)] \
        if source in (None, 'voc') else []
    yolo = [p for p in files if p.suffix.lower() == '.txt' and _is_yolo(p)] \
        if source in (None, 'yolo') else []
    found = dict(coco=len(coco), voc=len(xml), yolo=len(yolo))
    if sum(map(bool, found.values())) > 1:
        kinds = ', '.join(f'{n} files of {k}' for k, n in found.items() if n)
        raise ValueError(f'{root}: expected labels of one kind, found {kinds}; choose with --from')
    images = photographs(files, root)
    if coco:
        samples, names = _read_coco(coco, images, root, notes)
    elif xml:
        samples, names = _read_voc(xml, images, root, notes)
    elif yolo:
        samples, names = _read_yolo(yolo, files, images, root, classes, notes)
    else:
        suffixes = Counter(p.suffix.lower() for p in files).most_common(4)
        forms = dict(coco='COCO files (*.json with images, annotations and categories)',
                     voc='VOC files (*.xml with the root <annotation>)',
                     yolo='YOLO files (*.txt with lines "class x y width height", and the names '
                          'of the classes in data.yaml or classes.txt)')
        expected = forms[source] if source else f'labels of boxes: {" or ".join(forms.values())}'
        raise ValueError(f'{root}: expected {expected}, found '
                         + (', '.join(f'{n} *{s}' for s, n in suffixes) or 'no files'))
    if not any(s.truth for s in samples):
        raise ValueError(f'{root}: {len(samples)} images, and not one box')
    return _checked(samples, root, notes), names


def _checked(samples: List[Sample], root: Path, notes: List[str]) -> List[Sample]:
    """Leave out boxes without area, and tell what lies outside of its image."""
    flat, outside = [], []
    for sample in samples:
        width, height = sample.size
        kept = []
        for box in sample.truth:
            x, y, w, h = box.bbox
            if not np.isfinite(box.bbox).all() or w <= 0 or h <= 0:
                flat.append(sample.image)
                continue
            inside = max(0, min(x + w, width) - max(x, 0)) * max(0, min(y + h, height) - max(y, 0))
            if inside < 0.5 * w * h:
                outside.append(sample.image)
            kept.append(box)
        sample.truth, sample.labels = kept, frozenset(b.name for b in kept)
    total = sum(len(s.truth) for s in samples)
    if flat:
        notes.append(f'boxes without area, left out: {few(flat, root)}')
    if outside and len(outside) > 0.05 * total:
        raise ValueError(f'{root}: expected boxes inside of their image, found {len(outside)} of '
                         f'{total} outside, the first in {outside[0]}: are they of pictures of '
                         'another size, or pixels where fractions are expected?')
    if outside:
        notes.append(f'boxes that are mostly outside of their image: {few(outside, root)}')
    empty = [s.image for s in samples if not s.truth]
    if empty:
        notes.append(f'images without a box, which training leaves out and validation takes as '
                     f'background: {few(empty, root)}')
    return samples


def _coco_files(files: Sequence[Path]) -> Dict[Path, Dict[str, Any]]:
    """Return the content of COCO's files by path; only instances where there are those."""
    found = {}
    for path in files:
        if path.suffix.lower() != '.json':
            continue
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as e:
            raise ValueError(f'{path}: not JSON ({e}); if it holds no labels, choose their format '
                             'with --from') from e
        if isinstance(content, dict) and all(
                isinstance(content.get(k), list) for k in ('images', 'annotations', 'categories')):
            found[path] = content
    instances = {p: c for p, c in found.items() if p.stem.startswith('instances')}
    return instances or found


def _read_coco(contents: Dict[Path, Dict[str, Any]], images: Sequence[Path], root: Path,
               notes: List[str]) -> Tuple[List[Sample], List[str]]:
    index: Dict[str, List[Path]] = defaultdict(list)
    for path in images:
        index[path.name.lower()].append(path)
    splits = {p: split_in(p.stem, free=True) or split_in(p.parent.name) for p in contents}
    for split in {s for s in splits.values() if list(splits.values()).count(s) > 1 and s}:
        twice = [p for p, s in splits.items() if s == split]
        raise ValueError(f'{root}: expected one COCO file for {split}, found {few(twice, root)}')
    names: Dict[str, None] = {}
    samples: List[Sample] = []
    missing: List[str] = []
    parents = {c.get('supercategory') for content in contents.values()
               for c in content['categories'] if isinstance(c, dict)}
    for path, content in contents.items():
        try:
            ids = {c['id']: str(c['name']) for c in sorted(
                content['categories'], key=lambda c: c['id'])}
            boxes: Dict[Any, List[Box]] = defaultdict(list)
            for i, entry in enumerate(content['annotations']):
                if entry['category_id'] not in ids:
                    raise ValueError(f'annotations[{i}]: category_id {entry["category_id"]!r} is '
                                     'not among the categories')
                boxes[entry['image_id']].append(_coco_box(entry, ids[entry['category_id']]))
            used = {b.name for some in boxes.values() for b in some}
            for name in ids.values():  # the root of Roboflow's categories has no boxes
                if name in used or name not in parents:
                    names.setdefault(name)
            here = {e['id'] for e in content['images']}
            if len(here) < len(content['images']):
                raise ValueError('images: expected different ids')
            strays = sorted({*boxes} - here, key=str)
            if strays:
                notes.append(f'{path}: annotations of images that it does not list, left out: '
                             f'{len(strays)} ids, the first {strays[0]}')
            for entry in content['images']:
                image = _find_image(str(entry['file_name']), index, path, splits[path], root)
                if image is None:
                    missing.append(entry['file_name'])
                    continue
                size = entry.get('width'), entry.get('height')
                samples.append(Sample(image, str(image.relative_to(root).with_suffix('')),
                                      (size, boxes.pop(entry['id'], [])), split=splits[path]))
        except (KeyError, TypeError) as e:
            raise ValueError(f'{path}: not a COCO file of boxes: {type(e).__name__} {e}') from e
        except ValueError as e:
            raise ValueError(f'{path}: {e}') from e
    if missing and not samples:
        raise ValueError(f'{root}: no image is there of {few(missing, Path())} that annotations '
                         'name')
    if missing:
        notes.append('images that annotations name and that are not there, left out: '
                     f'{few(missing, Path())}')
    twice = [p for p, n in Counter(s.image for s in samples).items() if n > 1]
    if twice:
        raise ValueError(f'{root}: expected each image once in the annotations, found more often: '
                         f'{few(twice, root)}')
    samples = measure(samples, root, notes)
    for sample in samples:
        told, sample.truth = sample.truth
        _check_size(sample, *told)
    named = {s.image for s in samples}
    unnamed = [p for p in images if p not in named]
    if unnamed:
        notes.append(f'images that are not in the annotations, left out: {few(unnamed, root)}')
    return samples, list(names)


def _check_size(sample: Sample, width: Any, height: Any) -> None:
    """Compare the size that annotations give, if they do, with that of the image as shown."""
    told = float(width or 0), float(height or 0)
    if all(told) and told != sample.size:
        raise ValueError(f'{sample.image}: its annotations are for {told[0]:g}x{told[1]:g} pixels '
                         f'(width x height), it has {sample.size[0]}x{sample.size[1]}'
                         + (', turned by its EXIF orientation' * (sample.orientation > 1)))


def _coco_box(entry: Dict[str, Any], name: str) -> Box:
    shape, bbox = entry.get('segmentation') or None, entry.get('bbox')
    if isinstance(shape, list):  # fewer than three points are no polygon
        shape = [p for p in shape if len(p) >= 6] or None
    if not bbox and isinstance(shape, list):
        points = np.concatenate([np.reshape(p, (-1, 2)) for p in shape])
        low, high = points.min(0), points.max(0)
        bbox = [*low.tolist(), *(high - low).tolist()]
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise ValueError(f'annotation {entry.get("id")!r}: expected bbox=[x, y, width, height], '
                         f'found {bbox!r}')
    return Box(name, [float(v) for v in bbox], shape, bool(entry.get('iscrowd')))


def _find_image(name: str, index: Dict[str, List[Path]], beside: Path, split: str, root: Path
                ) -> Optional[Path]:
    """Return the image that an annotation names, wherever below the root it is.

    Raises:
        ValueError: Several images fit.
    """
    wanted = [p.lower() for p in Path(name.replace('\\', '/')).parts]
    found = index.get(wanted[-1], [])
    for better in (
            [p for p in found if [q.lower() for q in p.parts[-len(wanted):]] == wanted],
            [p for p in found if p.parent == beside.parent],
            [p for p in found if split and split in map(split_in, p.relative_to(root).parts)]):
        found = better if better and len(found) > 1 else found
    if len(found) > 1:
        raise ValueError(f'{name} is the name of several images: {few(found, root)}')
    return found[0] if found else None


def _is_voc(path: Path) -> bool:
    try:
        return ElementTree.parse(path).getroot().tag == 'annotation'
    except (ElementTree.ParseError, OSError) as e:
        raise ValueError(f'{path}: not an XML file ({e}); if it holds no labels, choose their '
                         'format with --from') from e


def _read_voc(xml: Sequence[Path], images: Sequence[Path], root: Path, notes: List[str]
              ) -> Tuple[List[Sample], List[str]]:
    samples = _with_labels(images, xml, root, notes)
    alone = [s.image for s in samples if s.truth is None]
    if alone:
        notes.append(f'images without an XML file, left out: {few(alone, root)}')
    samples = measure([s for s in samples if s.truth is not None], root, notes)
    crowds = 0
    for sample, boxes in _supervised(samples, 'voc', {}):
        # Neither an object nor background, as COCO's crowds.
        tree = ElementTree.parse(sample.truth).getroot()
        _check_size(sample, *(float(tree.findtext(f'size/{k}') or 0) for k in ('width', 'height')))
        hard = [(o.findtext('difficult') or '').strip() == '1' for o in tree.findall('object')]
        sample.truth = [b._replace(crowd=h) for b, h in zip(boxes, hard)]
        crowds += sum(hard)
    if crowds:
        notes.append('boxes marked as difficult, which count neither as objects nor as '
                     f'background: {crowds}')
    names = sorted({b.name for s in samples for b in s.truth})
    return samples, names


def _is_yolo(path: Path) -> bool:
    """Return True if the first line of a text file is a label of YOLO."""
    if path.stem.lower() in ('classes', 'labels', 'train', 'val', 'test', 'readme'):
        return False
    try:
        line = path.read_text(encoding='utf-8').strip().partition('\n')[0]
    except ValueError:
        return False
    return bool(re.fullmatch(r'\d+(\.0+)?(\s+-?[\d.]+(e-?\d+)?){4,}', line.strip(), re.I))


def _read_yolo(labels: Sequence[Path], files: Sequence[Path], images: Sequence[Path], root: Path,
               classes: Optional[Sequence[str]], notes: List[str]
               ) -> Tuple[List[Sample], List[str]]:
    data, places = _yolo_data(files, classes, root)
    # Also what is empty, for an image without objects, or broken, which is an error.
    stems, sure = {p.stem for p in images}, set(labels)
    labels = [p for p in files if p in sure or p.suffix.lower() == '.txt'
              and p.stem in stems]
    samples = _with_labels(images, labels, root, notes)
    alone = [s.image for s in samples if s.truth is None]
    if alone:
        notes.append("images without a label file, which YOLO's format has for those without "
                     f'objects: {few(alone, root)}')
    samples = measure(samples, root, notes)
    for sample, boxes in _supervised(samples, 'yolo', data):
        sample.truth = boxes
        sample.split = next((split for place, split in places.items()
                             if place in Path(os.path.abspath(sample.image)).parents), '')
    return samples, list(data['names'])


def _yolo_data(files: Sequence[Path], classes: Optional[Sequence[str]], root: Path
               ) -> Tuple[Dict[str, Any], Dict[Path, str]]:
    """Return names from ``data.yaml`` or a list beside the labels, and the folders of splits."""
    import yaml
    for path in sorted(files, key=lambda p: len(p.parts)):
        if path.suffix.lower() in ('.yaml', '.yml'):
            try:
                content = yaml.safe_load(path.read_text(encoding='utf-8'))
            except (ValueError, yaml.YAMLError) as e:
                raise ValueError(f'{path}: not a YAML file ({" ".join(str(e).split())})') from e
            names = content.get('names') if isinstance(content, dict) else None
            if isinstance(names, dict):
                if sorted(names) != list(range(len(names))):
                    raise ValueError(f'{path}: names: expected the ids 0, 1, 2, ..., found '
                                     f'{sorted(names)[:9]}')
                names = [names[i] for i in range(len(names))]
            if names:
                return {**{k: content[k] for k in ('kpt_shape', ) if k in content},
                        'names': [str(n) for n in names]}, _yolo_splits(path.parent, content)
        elif path.name.lower() in ('classes.txt', 'obj.names', '_darknet.labels'):
            names = path.read_text(encoding='utf-8').splitlines()
            return dict(names=[n.strip() for n in names if n.strip()]), {}
    if not classes:
        raise ValueError(f'{root}: no names of the classes: expected data.yaml with names, '
                         'classes.txt or obj.names; or give them in order with --classes')
    return dict(names=list(classes)), {}


def _yolo_splits(folder: Path, content: Dict[str, Any]) -> Dict[Path, str]:
    """Return the split of each folder that ``data.yaml`` names, if it tells train from val."""
    places: Dict[Path, str] = {}
    for split in ('train', 'val', 'test'):
        for entry in as_list(content.get(split)):
            for base in (folder / str(content.get('path') or ''), folder):
                place = Path(os.path.abspath(base / str(entry)))
                if place.is_dir() and places.setdefault(place, split) != split:
                    return {}
    return places if {'train', 'val'} <= {*places.values()} else {}


def _with_labels(images: Sequence[Path], labels: Sequence[Path], root: Path, notes: List[str]
                 ) -> List[Sample]:
    """Return all images, with the paths of their labels."""
    pairs = pair(images, labels, root)
    if not pairs:
        raise ValueError(f'{root}: expected images and labels of the same names, found '
                         f'{len(images)} images and other label files: {few(labels, root)}')
    used = set(pairs.values())
    alone = [p for p in labels if p not in used]
    if alone:
        notes.append(f'label files without an image, left out: {few(alone, root)}')
    return [Sample(i, str(i.relative_to(root).with_suffix('')), pairs.get(i)) for i in images]


def _supervised(samples: List[Sample], kind: str, data: Dict[str, Any]) -> Any:
    """Yield each sample with its boxes, which supervision reads from links of unique names."""
    try:
        import supervision
    except ImportError as e:
        raise ValueError(f'labels of {kind.upper()} are read with supervision, which cannot be '
                         f"imported ({e}): pip install 'mmscheme[labels]'") from e
    from pycocotools import mask as rle
    for sample in samples:  # one by one, because supervision keeps the masks of all that it reads
        with TemporaryDirectory() as folder:
            for name in ('images', 'labels'):
                Path(folder, name).mkdir()
            Path(folder, 'images', '0.png').symlink_to(sample.image.resolve())
            if sample.truth:
                label = '0.xml' if kind == 'voc' else '0.txt'
                Path(folder, 'labels', label).symlink_to(sample.truth.resolve())
            Path(folder, 'data.yaml').write_text(json.dumps(data))  # JSON is YAML
            images, labels = (os.path.join(folder, name) for name in ('images', 'labels'))
            try:
                read = supervision.DetectionDataset.from_pascal_voc(
                    images, labels) if kind == 'voc' else supervision.DetectionDataset.from_yolo(
                        images, labels, f'{folder}/data.yaml')
            except Exception as e:  # whatever broken labels raise
                text = str(e).replace(f"Invalid YOLO annotation file '{labels}/0.txt': ", '')
                raise ValueError(f'{sample.truth}: {" ".join(text.split())}') from e
            # Beside polygons, a line that is none is read with a mask of its box.
            plain = [len(line.split()) < 7 for line in sample.truth.read_text('utf-8').splitlines()
                     if line.strip()] if kind == 'yolo' and sample.truth else []
            for found in read.annotations.values():
                boxes: List[Box] = []
                kinds: Any = found.class_id
                for i, (x1, y1, x2, y2) in enumerate(found.xyxy.astype(float).tolist()):
                    # As RLE: supervision itself would write objects of several parts as crowds.
                    shape = None if found.mask is None or True in plain[i:i + 1] or not \
                        found.mask[i].any() else rle.encode(
                            np.asfortranarray(found.mask[i], np.uint8))
                    if shape:
                        shape['counts'] = shape['counts'].decode()
                    boxes.append(Box(read.classes[kinds[i]], [x1, y1, x2 - x1, y2 - y1],
                                     shape))
                yield sample, boxes


def write_coco(samples: Sequence[Sample], classes: Sequence[str], root: Path, target: Path) -> None:
    """Write a COCO file with ids from 1 on; names of images are below the root."""
    content: Dict[str, List[Any]] = dict(
        images=[], annotations=[],
        categories=[dict(id=i, name=name) for i, name in enumerate(classes, 1)])
    for number, sample in enumerate(samples, 1):
        width, height = sample.size
        content['images'].append(dict(id=number, width=width, height=height,
                                      file_name=sample.image.relative_to(root).as_posix()))
        for box in sample.truth:
            entry = dict(id=len(content['annotations']) + 1, image_id=number, bbox=box.bbox,
                         category_id=list(classes).index(box.name) + 1,
                         area=_area(box, width, height), iscrowd=int(box.crowd))
            if box.segmentation:
                entry['segmentation'] = box.segmentation
            content['annotations'].append(entry)
    target.write_text(json.dumps(content))


def _area(box: Box, width: int, height: int) -> float:
    """Return the pixels of an object, or of its box."""
    if not box.segmentation:
        return box.bbox[2] * box.bbox[3]
    from pycocotools import mask as coco
    shape = box.segmentation
    parts = coco.frPyObjects(shape, height, width) if not isinstance(shape, dict) or isinstance(
        shape['counts'], list) else shape
    return float(coco.area(coco.merge(parts) if isinstance(parts, list) else parts))
