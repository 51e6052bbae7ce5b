"""The images of a folder, and their splits: those that its names tell, or one that is drawn."""
import hashlib
import os
import random
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, FrozenSet, Hashable, List, Optional, Sequence, Set, Tuple

from PIL import Image

from mmscheme.utils.image_files import IMAGE_SUFFIXES, UNREAD_SUFFIXES
from mmscheme.utils.user_errors import some_of

__all__ = ['RECORD', 'Sample', 'choose_classes', 'common_name', 'few', 'find_files', 'is_image',
           'is_label', 'measure', 'pair', 'photographs', 'set_splits', 'split_in']

#: Marker file of a folder written by ``new``; such folders are skipped.
RECORD = 'mmscheme.json'

_SPLITS = {**dict.fromkeys(('train', 'training'), 'train'),
           **dict.fromkeys(('val', 'valid', 'validation'), 'val'),
           **dict.fromkeys(('test', 'testing'), 'test')}

# Words that stand beside that of a split in the name of a folder: train_images, trainannot.
_LAYOUT = re.compile('(images?|imgs?|jpegimages|masks?|labels?|annotations?|annot|gt|set|data|jpg)')

# Words for the folder or at the end of the name of an image, a mask or another label.
_IMAGE_WORDS = {'image', 'images', 'img', 'imgs', 'jpegimages', 'rgb', 'frames', 'photos',
                'leftimg'}
_LABEL_WORDS = {'mask', 'masks', 'label', 'labels', 'annotation', 'annotations', 'annot', 'ann',
                'gt', 'gtfine', 'groundtruth', 'segmentation', 'segmentationclass', 'xml',
                'segmentationclassraw', 'segmentationobject', 'seg', 'truth'}
_LABEL_STEM = re.compile(r'[-_. ](masks?|labels?|gt|seg|annotation|segmentation|labelids)$', re.I)
_IMAGE_STEM = re.compile(r'[-_. ](leftimg8bit|image|img)$', re.I)


@dataclass
class Sample:
    """An image and its label.

    Attributes:
        image: Path of the image.
        name: Path below the root; of masks the path to write it under, without suffix and words
            such as ``images`` and ``train``.
        truth: The label: path of a mask, list of boxes, or name of a class.
        labels: Names or ids that occur in it, to be spread over the splits.
        split: ``'train'``, ``'val'`` or ``'test'``; empty if nothing tells it.
        size: Width and height as it is shown.
        orientation: EXIF orientation; 1 is upright.
    """
    image: Path
    name: str
    truth: Any = None
    labels: FrozenSet[Hashable] = frozenset()
    split: str = ''
    size: Tuple[int, int] = (0, 0)
    orientation: int = 1


def few(paths: Sequence[Any], root: Path) -> str:
    """Return the number of paths, and the first three below a root, for a message."""
    shown = some_of((os.path.relpath(p, root) for p in paths), 3)
    return f'{len(paths)} ({shown})' if paths else '0'


def find_files(root: Path, notes: List[str]) -> List[Path]:
    """Return the files below a folder, without hidden ones and those of earlier projects."""
    found: List[Path] = []
    seen: Set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        if os.path.realpath(folder) in seen or RECORD in names:
            folders.clear()
            continue
        seen.add(os.path.realpath(folder))
        folders[:] = sorted(f for f in folders if not f.startswith(('.', '__MACOSX', 'work_dirs')))
        found += [Path(folder, n) for n in sorted(names) if not n.startswith('.')]
    for suffix, count in Counter(p.suffix.lower() for p in found).items():
        if suffix in UNREAD_SUFFIXES:
            notes.append(f'files *{suffix}, which are not read: {count}; convert images to *.png '
                         'or *.jpg')
    return found


def is_image(path: Path) -> bool:
    """Return True if the suffix, in any case, is that of an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def split_in(part: str, free: bool = False) -> str:
    """Return the split that the name of a folder or file tells, or an empty string.

    Args:
        part: The name.
        free: Other words may stand beside that of the split, as in ``instances_train2017``.
    """
    words = re.findall('[a-z]+', part.lower())
    splits = {_SPLITS[w] for w in words if w in _SPLITS}
    for word in words:  # trainannot
        head = _LAYOUT.sub('', word)
        splits |= {_SPLITS[head]} if head != word and head in _SPLITS else set()
    others = [w for w in words if w not in _SPLITS and _LAYOUT.sub('', w) not in ('', *_SPLITS)]
    return splits.pop() if len(splits) == 1 and (free or not others) else ''


def photographs(files: Sequence[Path], root: Path) -> List[Path]:
    """Return the images that are not masks, unless all are in folders of such names."""
    images = [p for p in files if is_image(p)]
    return [p for p in images if not is_label(p, root)] or images


def is_label(path: Path, root: Path) -> bool:
    """Return True if the word nearest to the end of a path tells that a picture is a mask."""
    if _LABEL_STEM.search(path.stem) or _IMAGE_STEM.search(path.stem):
        return bool(_LABEL_STEM.search(path.stem))
    for part in reversed(path.relative_to(root).parts[:-1]):
        words = re.findall('[a-z]+', part.lower())
        if any(w in _LABEL_WORDS or w.endswith(('mask', 'masks', 'labels', 'annot'))
               for w in words):
            return True
        if any(w in _IMAGE_WORDS or w.endswith('images') for w in words):
            return False
    return False


def common_name(path: Path, root: Path, splits: bool = True) -> str:
    """Return what the paths of an image and its label have in common: no such words, no suffix.

    Args:
        path: The path.
        root: Folder that it is relative to.
        splits: Keep the folder of a split, as train, val or test.
    """
    kept = []
    for part in path.relative_to(root).parts[:-1]:
        split = split_in(part)
        words = [w for w in re.split('[-_. ]', part)
                 if w.lower() not in _IMAGE_WORDS | _LABEL_WORDS | {'leftimg8bit', 'ground'}]
        if split or words:
            kept += [split or '_'.join(words)] if splits or not split else []
    stem = _IMAGE_STEM.sub('', _LABEL_STEM.sub('', path.stem))
    return '/'.join([*kept, re.sub('_gtFine$', '', stem)])


def pair(images: Sequence[Path], labels: Sequence[Path], root: Path) -> Dict[Path, Path]:
    """Return the label of each image that has one.

    They have the same path but for words such as ``images`` and ``labels``. Only where no two
    files have, the only two files of a name in a split are a pair, then the only two at all.

    Raises:
        ValueError: It is not clear which belong together.
    """
    pairs: Dict[Path, Path] = {}
    keys: List[Callable[[Path], str]] = [
        lambda p: common_name(p, root), lambda p: f'{split_of(p, root)}/{p.stem}', lambda p: p.stem]
    for key in keys:
        sides: Tuple[Dict[str, List[Path]], ...] = (defaultdict(list), defaultdict(list))
        for side, paths in zip(sides, (images, labels)):
            for path in paths:
                side[key(path).lower()].append(path)
        for name in [n for n in sides[0] if n in sides[1]]:
            candidates = [*sides[0][name], *sides[1][name]]
            splits = {split_of(p, root) for p in candidates} - {''}
            if len(candidates) == 2 and len(splits) < 2:
                pairs[candidates[0]] = candidates[1]
            elif key is keys[0]:
                raise ValueError(f'{root}: it is not clear which label is of which image: '
                                 f'{few(candidates, root)}')
        if pairs:
            break
    return pairs


def split_of(path: Path, root: Path) -> str:
    """Return the split that the folders of a path tell, or an empty string."""
    return next(filter(None, map(split_in, path.relative_to(root).parts[:-1])), '')


def measure(samples: List[Sample], root: Path, notes: List[str]) -> List[Sample]:
    """Read the size of each image; leave out those that are none.

    Raises:
        ValueError: Not one of them can be read.
    """
    whole, broken = [], []
    for sample in samples:
        try:
            with Image.open(sample.image) as image:
                sample.size = image.size
                sample.orientation = image.getexif().get(0x0112, 1)
        except Exception:  # decoders raise what they like
            broken.append(sample.image)
            continue
        if sample.orientation in (5, 6, 7, 8):
            sample.size = sample.size[::-1]
        whole.append(sample)
    if broken and not whole:
        raise ValueError(f'{root}: no image can be read of {few(broken, root)}')
    if broken:
        notes.append(f'images that cannot be read, left out: {few(broken, root)}')
    return whole


def set_splits(samples: List[Sample], files: Sequence[Path], root: Path, seed: int,
               notes: List[str], lists: Optional[str] = None) -> List[Sample]:
    """Set the split of each sample that has none, and return those that are used.

    The names of folders tell it, or lists such as ``ImageSets/Main/train.txt``. Where nothing
    does, or where there is only one for training, a fifth is drawn for validation.

    Args:
        samples: The samples.
        files: All files below the root.
        root: The folder.
        seed: Seed of the draw.
        notes: Lines for the user, which are added to.
        lists: Folder of VOC's lists, ``'Main'`` or ``'Segmentation'``; None where folders are
            classes, so that ``train`` in some paths alone is a class.

    Raises:
        ValueError: Some samples are in no split, there is none for training, or too few images.
    """
    if not any(s.split for s in samples):
        told = [split_of(s.image, root) for s in samples]
        if ('train' in told or len({*told} - {''}) > 1) and (all(told) or lists):
            for sample, split in zip(samples, told):
                sample.split = split
    if not any(s.split for s in samples) and lists:
        samples = _use_lists(samples, files, root, lists, notes)
    have = Counter(s.split for s in samples)
    without = [s.image for s in samples if not s.split]
    if without and len(have) > 1:
        raise ValueError(f'{root}: expected all labelled images in a split, as others are in '
                         f'{", ".join(sorted(filter(None, have)))}; in none: {few(without, root)}')
    if have and not have['train'] and not without:
        raise ValueError(f'{root}: expected images for training, found only those of '
                         f'{", ".join(sorted(have))}')
    if not have['val']:
        drawn = [s for s in samples if s.split in ('', 'train')]
        _draw(drawn, seed, notes)
        count = sum(s.split == 'val' for s in drawn)
        notes.append(f'no validation split: {count} of {len(drawn)} images are drawn, stratified '
                     f'by label (--seed {seed})')
    return samples


def _use_lists(samples: List[Sample], files: Sequence[Path], root: Path, kind: str,
               notes: List[str]) -> List[Sample]:
    """Set the splits that lists of names tell; leave out what no list has."""
    names = {**_SPLITS, 'trainval': 'train'}
    lists = [p for p in files if p.suffix.lower() == '.txt' and p.stem.lower() in names]
    lists = [p for p in lists if p.parent.name.lower() == kind.lower()] or [
        p for p in lists if p.parent == root]
    if any(p.stem.lower() in ('train', 'training') for p in lists):
        lists = [p for p in lists if p.stem.lower() != 'trainval']  # it has both
    index: Dict[str, List[Path]] = defaultdict(list)
    for sample in samples:
        index[sample.image.stem.lower()].append(sample.image)
    by_image = {s.image: s for s in samples}
    absent: List[str] = []
    for path in lists:
        for line in path.read_text(encoding='utf-8', errors='replace').splitlines():
            # The whole line may be a name with spaces, or numbers may follow the name.
            words = [w for w in (line.strip(), *line.split()[:1]) if w]
            if not words:
                continue
            name = next((w for w in words if _key(w) in index), words[-1])
            wanted, found = Path(name), index.get(_key(name), [])
            for near in ([p for p in found if path.parent.parent.parent in p.parents],
                         [p for p in found if p.parent.name == wanted.parent.name]):
                found = near or found
            if len(found) > 1:
                raise ValueError(f'{path}: {name} is the name of several images: '
                                 f'{few(found, root)}')
            absent += [] if found else [name]
            for image in found:
                split, before = names[path.stem.lower()], by_image[image].split
                if before and before != split:
                    raise ValueError(f'{path}: {name} is in the list of {before} too')
                by_image[image].split = split
    if absent:
        notes.append(f'names in lists of splits without a labelled image: {few(absent, Path())}')
    if not any(s.split for s in samples):
        return samples
    unlisted = [s.image for s in samples if not s.split]
    if unlisted:
        notes.append(f'images that no list of a split has, left out: {few(unlisted, root)}')
    return [s for s in samples if s.split]


def _key(name: str) -> str:
    """Return what a name in a list and the stem of its image have in common."""
    path = Path(name)
    return (path.stem if is_image(path) else path.name).lower()


def _draw(samples: List[Sample], seed: int, notes: List[str], share: float = 0.2) -> None:
    """Set train and val, the rarest label first, so that each has its share (Sechidis, 2011).

    Copies of an image, which would make the metric say nothing, stay together.
    """
    groups: Dict[str, List[Sample]] = defaultdict(list)
    copies = _copies(samples)
    first: Dict[str, str] = {}
    for sample in samples:
        # Roboflow's augmented versions of one image: NAME.rf.HASH.jpg
        key = re.split(r'\.rf\.', sample.name)[0]
        groups[first.setdefault(copies.get(sample.image, key), key)].append(sample)
    if len(groups) < 2:
        raise ValueError(f'expected at least 2 different images with labels, found {len(groups)}')
    if copies:
        notes.append(f'images with the content of another one: {len(copies)}, for example '
                     f'{next(iter(copies))}; copies stay in one split')
    keys = random.Random(seed).sample(sorted(groups), len(groups))
    labels = {k: {x for s in groups[k] for x in (s.labels or {None})} for k in keys}
    count = Counter(x for k in keys for x in labels[k])
    split: Dict[str, str] = {}
    for label in sorted(count, key=lambda x: (count[x], str(x))):
        members = [k for k in keys if label in labels[k]]
        wanted = round(share * len(members)) - sum(split.get(k) == 'val' for k in members)
        for key in members:
            if key not in split:
                split[key] = 'val' if wanted > 0 else 'train'
                wanted -= 1
    if 'val' not in split.values():
        spare = [k for k in keys if all(count[x] > 1 for x in labels[k])]
        split[(spare or keys)[0]] = 'val'
    for key in keys:
        for sample in groups[key]:
            sample.split = split[key]


def _copies(samples: List[Sample]) -> Dict[Path, str]:
    """Return a hash for each image whose content another one has too."""
    by_size: Dict[int, List[Path]] = defaultdict(list)
    for sample in samples:
        by_size[sample.image.stat().st_size].append(sample.image)
    digests = {p: hashlib.sha256(p.read_bytes()).hexdigest()
               for paths in by_size.values() if len(paths) > 1 for p in paths}
    count = Counter(digests.values())
    return {p: d for p, d in digests.items() if count[d] > 1}


def choose_classes(found: Sequence[str], wanted: Optional[Sequence[str]],
                   ignored: Sequence[str], where: str) -> List[str]:
    """Return the classes to train: those that labels name, or those of them that were asked for.

    Raises:
        ValueError: A name that was given is not among them, or nothing is left.
    """
    unknown = [n for n in (*(wanted or ()), *ignored) if n not in found]
    if unknown:
        raise ValueError(f'{where}: no label is {unknown[0]!r}; there are '
                         f'{", ".join(map(repr, found))}')
    classes = [n for n in wanted or found if n not in ignored]
    if not classes:
        raise ValueError(f'{where}: no class is left of {", ".join(map(repr, found))}')
    return classes
