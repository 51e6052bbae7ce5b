"""Masks for segmentation: pairs of image and mask, what their values mean, masks of plain ids."""
import csv
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmscheme.utils.user_errors import some_of

from .samples import Sample, common_name, few, is_image, is_label, measure, pair

__all__ = ['Meaning', 'find_pairs', 'interpret', 'read_mask', 'write_mask']

#: Value of a pixel that is ignored, in the masks that are written.
VOID = 255

# Between objects in VOC's masks of colours.
_VOC_BORDER = 0xe0e0c0

# Other pictures beside masks: instances of VOC and Cityscapes, colours for people.
_NEITHER = re.compile(
    'segmentationobject/|_(instanceids|labeltrainids)[.]|_gt(fine|coarse)_color[.]', re.I)
_IGNORED_NAMES = {'void', 'unlabeled', 'unlabelled', 'ignore', 'ignored', 'unknown', 'dontcare'}
# More are not ids: a photograph, or a mask that was resized or saved as JPEG.
_MOST_IDS = 1000


class Meaning(NamedTuple):
    """The meaning of the values of masks.

    Attributes:
        classes: Names, in the order of the ids that are written.
        ids: Written id by the value in the files; what is ignored has 255.
        palette: Colour of each class, or None.
        rgb: The values are colours, 65536 * red + 256 * green + blue.
        shares: Share of the pixels by value.
    """
    classes: List[str]
    ids: Dict[int, int]
    palette: Optional[List[List[int]]]
    rgb: bool
    shares: Dict[int, float]

    def changes(self) -> bool:
        """Return True if masks have to be written anew."""
        return self.rgb or any(v != i for v, i in self.ids.items())


def find_pairs(files: Sequence[Path], root: Path, notes: List[str]) -> List[Sample]:
    """Find the images that have a mask; the notes tell what has no partner.

    Raises:
        ValueError: There are none, or it is not clear which belongs to which.
    """
    pictures = [f for f in files if is_image(f)
                and not _NEITHER.search(f.relative_to(root).as_posix())]
    masks = [f for f in pictures if is_label(f, root)]
    if not masks or len(masks) == len(pictures):  # side by side: 1.jpg and 1.png
        jpegs = {f.with_suffix('') for f in pictures if f.suffix.lower() in ('.jpg', '.jpeg')}
        masks = [f for f in pictures if f.suffix.lower() == '.png' and f.with_suffix('') in jpegs]
    taken = set(masks)
    images = [f for f in pictures if f not in taken]
    pairs = pair(images, masks, root)
    if not pairs:
        raise ValueError(
            f'{root}: expected images and masks of the same names in folders such as images/ and '
            'masks/ (with or without train/ and val/), JPEGImages/ and SegmentationClass/, or '
            f'NAME.jpg beside NAME_mask.png; found images without masks: {few(images, root)}, '
            f'masks without images: {few(masks, root)}')
    for some, used, kind in ((images, set(pairs), 'images without a mask'),
                             (masks, set(pairs.values()), 'masks without an image')):
        alone = [p for p in some if p not in used]
        if alone:
            notes.append(f'{kind}, left out: {few(alone, root)}')
    return [Sample(i, common_name(i, root, False), m) for i, m in pairs.items()]


def read_mask(path: Path) -> Tuple[NDArray[Any], str, Optional[List[int]]]:
    """Return the values of a mask ``(H, W)``, what they are, and the palette if it has one.

    They are ``'ids'``, ``'grey'`` for colours that are all grey, or ``'rgb'``.

    Raises:
        ValueError: It cannot be read.
    """
    try:
        with Image.open(path) as image:
            palette = image.getpalette() if image.mode == 'P' else None
            if image.mode in ('1', 'P', 'L') or image.mode[0] == 'I':
                return np.asarray(image).astype(np.int64), 'ids', palette
            if image.mode == 'LA':
                return np.asarray(image.convert('L')).astype(np.int64), 'ids', None
            rgb = np.asarray(image.convert('RGB')).astype(np.int64)
    except Exception as e:  # decoders raise what they like
        raise ValueError(f'unreadable mask: {path} ({" ".join(str(e).split())})') from e
    grey = bool((rgb[..., :1] == rgb).all())
    return rgb @ np.array([65536, 256, 1]), 'grey' if grey else 'rgb', None


def _count(sample: Sample) -> Tuple[Dict[int, int], str, Optional[List[int]]]:
    values, kind, palette = read_mask(sample.truth)
    size = values.shape[1], values.shape[0]
    if sample.size not in (size, size[::-1]) or sample.size != size and sample.orientation < 5:
        raise ValueError(f'{sample.truth}: the mask has {size[0]}x{size[1]} pixels, its image '
                         f'{sample.size[0]}x{sample.size[1]} (width x height)')
    if values.max() < 2**16:  # faster than sorting
        numbers = np.bincount(values.ravel())
        ids = np.flatnonzero(numbers)
        numbers = numbers[ids]
    else:
        ids, numbers = np.unique(values, return_counts=True)
    return dict(zip(ids.tolist(), numbers.tolist())), kind, palette


def interpret(samples: List[Sample], files: Sequence[Path], root: Path,
              classes: Optional[Sequence[str]], ignored: Optional[Sequence[str]],
              notes: List[str]) -> Tuple[List[Sample], Meaning]:
    """Read all masks and propose what their values mean.

    Args:
        samples: Pairs, whose labels are set.
        files: All files below the root, among which may be a list of names.
        root: The folder.
        classes: Names for the values that are not ignored, in their order.
        ignored: Values or names to ignore; None for 255 and what is called void or unlabelled.
        notes: Lines for the user, which are added to.

    Raises:
        ValueError: The masks are no masks, or have not two classes.
    """
    samples = measure(samples, root, notes)
    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(_count, samples))
    kinds = {kind for _, kind, _ in counts}
    rgb = 'rgb' in kinds
    if rgb and 'ids' in kinds:
        odd = [s.truth for s, c in zip(samples, counts) if c[1] == 'rgb']
        raise ValueError(f'{root}: expected masks of ids or of colours, found both; colours: '
                         f'{few(odd, root)}')
    if 'grey' in kinds and not rgb:  # ids, written three times
        counts = [({v & 255: n for v, n in c.items()} if k == 'grey' else c, 'ids', p)
                  for c, k, p in counts]
    total: Counter = Counter()
    for sample, (numbers, _, _) in zip(samples, counts):
        total.update(numbers)
        if len(total) > _MOST_IDS:
            jpeg = ', and JPEG changes ids' if sample.truth.suffix.lower() != '.png' else ''
            raise ValueError(f'{sample.truth}: expected a mask of ids or of a few colours, found '
                             f'{len(total)} different values in the masks up to this one{jpeg}')
    lossy = [s.truth for s in samples if s.truth.suffix.lower() in ('.jpg', '.jpeg')]
    if lossy:
        raise ValueError(f'{root}: expected masks as PNG, because JPEG changes values, found '
                         f'{few(lossy, root)}')
    values = sorted(total)
    between = sum(total[v] for v in values if v not in (0, 255))
    if ignored is None and not rgb and len(values) > 4 and {0, 255} <= {*values} and \
            values[-2] > 127 and 5 * between < sum(total.values()):
        raise ValueError(
            f'{root}: expected ids, found 0 and 255 in most pixels and {len(values) - 2} values up '
            f'to {values[-2]} between them, as smoothing leaves at edges: write 0 and 255 alone, '
            'or if they are ids, say with --ignore which to leave out')
    palette = _palette(samples, counts, rgb, notes)
    colours = {v: _colour(v, palette, rgb) for v in values}
    names = _names(values, files, colours, rgb, notes, root)
    void = _void(values, names, ignored, rgb, root)
    kept = [v for v in values if v not in void]
    if classes is not None:
        if len(classes) != len(kept) or len(set(classes)) < len(classes):
            raise ValueError(f'--classes: expected {len(kept)} different names, one for each of '
                             f'{some_of((names[v] if rgb else v for v in kept), 20)}, found '
                             f'{len(classes)}')
        names.update(zip(kept, classes))
    merged = list(dict.fromkeys(names[v] for v in kept))
    if len(merged) < 2:
        raise ValueError(
            f'{root}: expected masks of at least two classes, found the values '
            f'{", ".join(map(str, values))}, of which {", ".join(map(str, void)) or "none"} are '
            'ignored; --ignore says which should be')
    if len(merged) > VOID:
        raise ValueError(f'{root}: expected at most {VOID} classes, found {len(merged)}')
    for sample, (numbers, _, _) in zip(samples, counts):
        sample.labels = frozenset(numbers) & set(kept)
    pixels = sum(total.values())
    meaning = Meaning(
        merged, {v: VOID if v in void else merged.index(names[v]) for v in values},
        None if not any(colours.values()) else
        [next(colours[v] or [0, 0, 0] for v in kept if names[v] == n) for n in merged],
        rgb, {v: total[v] / pixels for v in values})
    _tell(meaning, names, void, ignored, notes)
    return samples, meaning


def _palette(samples: List[Sample], counts: Sequence[Any], rgb: bool, notes: List[str]
             ) -> Optional[List[int]]:
    """Return the palette of the masks; tell where they have different ones."""
    first: Optional[Tuple[Path, List[int]]] = None
    for sample, (numbers, _, palette) in zip(samples, counts):
        if palette is None or rgb:
            continue
        first = first or (sample.truth, palette)
        odd = [v for v in numbers if _colour(v, palette, rgb) != _colour(v, first[1], rgb)]
        if odd:
            notes.append(f'{sample.truth} has another colour for the value {odd[0]} than '
                         f'{first[0]}: the values of masks are used, not their colours')
            return None
    return first[1] if first else None


def _tell(meaning: Meaning, names: Dict[int, str], void: List[int],
          ignored: Optional[Sequence[str]], notes: List[str]) -> None:
    for value in void:
        notes.append(f'mask value {names[value] if meaning.rgb else value} '
                     f'({meaning.shares[value]:.1%} of the pixels) is ignored'
                     + ('' if ignored is not None else '; to change this: --ignore VALUE ..., or '
                        '--ignore alone for none'))
    if 0 in names and 0 not in void and not meaning.rgb and ignored is None:
        notes.append(f'mask value 0 ({meaning.shares[0]:.1%} of the pixels) is the class '
                     f'{names[0]!r}; if it means unlabelled: --ignore 0'
                     + (' 255' if 255 in void else ''))
    if meaning.changes():
        shown = [f'{names[v] if meaning.rgb else v} -> {i}' for v, i in meaning.ids.items()]
        notes.append(f'the masks are rewritten with other values: {some_of(shown, 12)}')


def _colour(value: int, palette: Optional[List[int]], rgb: bool) -> Optional[List[int]]:
    if rgb:
        return [value >> 16, value >> 8 & 255, value & 255]
    found = palette[3 * value:3 * value + 3] if palette else []
    return list(found) if len(found) == 3 else None


def _void(values: Sequence[int], names: Dict[int, str], ignored: Optional[Sequence[str]],
          rgb: bool, root: Path) -> List[int]:
    """Return the values to ignore."""
    if ignored is None:
        # 0 and 255 alone are a background and an object; 0, 128 and 255 are levels of grey.
        levels = values[-1] == 255 and min(np.diff(values), default=0) >= 32
        usual = [_VOC_BORDER] if rgb else [] if levels else [255]
        return [v for v in values if v in usual or re.sub(
            '[^a-z]', '', names[v].lower()) in _IGNORED_NAMES]
    by_name = {**{str(v): v for v in values}, **{names[v]: v for v in values}}
    unknown = [i for i in ignored if i not in by_name and i != '255']
    if unknown:
        raise ValueError(f'--ignore {unknown[0]}: expected values of masks in {root}, that is '
                         f'some of {some_of(values, 20)} or '
                         f'{some_of((names[v] for v in values), 20)}')
    return [by_name[i] for i in ignored if i in by_name]


def _names(values: Sequence[int], files: Sequence[Path], colours: Dict[int, Any], rgb: bool,
           notes: List[str], root: Path) -> Dict[int, str]:
    """Return a name for each value, from a list beside the data if there is one."""
    names = {v: '#{:02x}{:02x}{:02x}'.format(*colours[v]) if rgb else
             'background' if v == 0 else f'class_{v}' for v in values}
    if not rgb and list(values) == [0, 255]:
        names[255] = 'foreground'
    for path in sorted(files, key=lambda p: len(p.parts)):
        found: Dict[int, str] = {}
        if path.name.lower() == 'labelmap.txt':
            found = _labelmap(path, colours)
        elif path.name.lower() == '_classes.csv' and not rgb:
            with open(path, encoding='utf-8', newline='') as f:
                found = {int(r[0]): r[1].strip() for r in csv.reader(f)
                         if len(r) > 1 and r[0].strip().isdigit()}
        elif path.name.lower() in ('classes.txt', 'labels.txt', 'names.txt') and not rgb:
            lines = path.read_text(encoding='utf-8').splitlines()
            found = _in_order([n.strip() for n in lines if n.strip()], values, path)
        if found:
            unnamed = [v for v in values if v not in found and v != 255]
            if unnamed:
                notes.append(f'{path} has no name for {some_of(names[v] for v in unnamed)}')
            notes.append(f'the names of the classes are from {path.relative_to(root)}')
            unused = [n for v, n in found.items() if v not in names]
            if unused:
                notes.append(f'left out, because no pixel is of these classes: {some_of(unused)}')
            return {**names, **{v: n for v, n in found.items() if v in names}}
    return names


def _labelmap(path: Path, colours: Dict[int, Any]) -> Dict[int, str]:
    """Read a file of CVAT and VOC tools with lines ``name:red,green,blue:parts:actions``."""
    rows = [line.split(':') for line in path.read_text(encoding='utf-8').splitlines()
            if line.strip() and not line.startswith('#')]
    named = {tuple(int(x) for x in row[1].split(',')): row[0].strip() for row in rows
             if len(row) > 1 and re.fullmatch(r'\s*\d+\s*,\s*\d+\s*,\s*\d+\s*', row[1])}
    if not any(colours.values()):
        return dict(enumerate(row[0].strip() for row in rows))
    return {v: named[tuple(c)] for v, c in colours.items() if c and tuple(c) in named}


def _in_order(names: List[str], values: Sequence[int], path: Path) -> Dict[int, str]:
    """Return the names by value: from 0, from 1, or in the order of the values.

    Raises:
        ValueError: None of these fits, or two of them do.
    """
    plain = [v for v in values if v != 255]
    readings = []
    if 0 in plain and max(plain) < len(names):
        return dict(enumerate(names))
    if max(plain, default=0) == len(names):
        readings.append({i + 1: n for i, n in enumerate(names)})
    for some in (plain, [v for v in plain if v]):
        if len(names) == len(some) and dict(zip(some, names)) not in readings:
            readings.append(dict(zip(some, names)))
    if len(readings) == 1:
        return readings[0]
    raise ValueError(f'{path}: it has {len(names)} names, the masks have the values '
                     f'{some_of(plain, 20)}; --classes gives a name to each')


def write_mask(sample: Sample, meaning: Meaning, target: Path) -> None:
    """Write a mask of plain ids, turned as its image is shown; link one that is so already."""
    with Image.open(sample.truth) as image:
        plain = image.mode in ('L', 'P') and image.size == sample.size and image.format == 'PNG'
    if plain and not meaning.changes():
        target.symlink_to(sample.truth.resolve())
        return
    values, kind, _ = read_mask(sample.truth)
    values = values & 255 if kind == 'grey' and not meaning.rgb else values
    keys = np.array(sorted(meaning.ids))
    new = np.array([meaning.ids[k] for k in keys.tolist()], np.uint8)
    image = Image.fromarray(new[np.searchsorted(keys, values)])
    if image.size != sample.size:
        turn = Image.Transpose
        image = image.transpose({5: turn.TRANSPOSE, 6: turn.ROTATE_270, 7: turn.TRANSVERSE,
                                 8: turn.ROTATE_90}[sample.orientation])
    image.save(target)
