"""A project on a folder of data: labels in a folder of their own, and a config that trains."""
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import numpy as np

from mmscheme.utils.check_args import check_choice
from mmscheme.utils.output_files import replacing, write_bytes
from mmscheme.utils.user_errors import some_of

from .boxes import find_boxes, write_coco
from .masks import find_pairs, interpret, write_mask
from .recipe import Facts, largest_batch, write_recipe
from .samples import (
    RECORD,
    Sample,
    choose_classes,
    few,
    find_files,
    is_image,
    measure,
    set_splits,
    split_in,
    split_of,
)

__all__ = ['SOURCES', 'Project', 'make_project']

#: The labels that each task takes.
SOURCES = dict(seg=('masks', 'voc'), det=('coco', 'voc', 'yolo'), cls=('folders', ))

_SPLITS = ('train', 'val', 'test')


class Project(NamedTuple):
    """A project that was written.

    Attributes:
        config: Path of the config.
        folder: Folder of its labels.
        facts: What the config was made for.
        batch: Images of an iteration.
        notes: Lines on what was found and decided.
    """
    config: Path
    folder: Path
    facts: Facts
    batch: int
    notes: List[str]

    def halve_batch(self) -> Optional['Project']:
        """Write the config for half the images in an iteration; return None below 2."""
        if self.batch < 4:
            return None
        smaller = self._replace(batch=self.batch // 2)
        smaller.write_config()
        return smaller

    def write_config(self) -> None:
        """Write the config."""
        write_bytes(self.config, write_recipe(self.facts, self.batch).encode())


def make_project(task: str, data: Path, name: str, source: Optional[str] = None,
                 classes: Optional[Sequence[str]] = None,
                 ignored: Optional[Sequence[str]] = None, seed: int = 0,
                 command: str = 'python -m mmscheme new') -> Project:
    """Write ``NAME.py`` and the labels it needs, ``NAME_data/``, into the current folder.

    The data stay as they are: images are links to them, and labels are converted into the new
    folder: masks with plain ids, one COCO file or list of images for each split.

    Args:
        task: ``'seg'``, ``'det'`` or ``'cls'``.
        data: Folder of the images and labels, in any usual layout.
        name: Name of the project.
        source: Kind of the labels, one of :data:`SOURCES`; None to find out.
        classes: Names of the classes: of segmentation for the values of masks in their order,
            of others those that are trained, in this order.
        ignored: Values of masks or names of classes to leave out; None for what is usual.
        seed: Seed of the split that is drawn where the data have none.
        command: Command line, for the first line of the config.

    Returns:
        The project.

    Raises:
        FileExistsError: There are files of that name.
        FileNotFoundError: There is no such folder.
        ValueError: The data are of no known layout, or contradict themselves.
    """
    check_choice('task', task, tuple(SOURCES))
    if source is not None:
        check_choice(f'--from for {task}', source, SOURCES[task])
    if not name.isidentifier():
        raise ValueError(f'--name: expected letters, digits and _, found {name!r}')
    known = find_spec(name)
    if known is not None and known.origin:  # in the current folder it would hide that module
        raise ValueError(f'--name: expected another than that of a Python module, found {name!r} '
                         f'({known.origin})')
    config, folder = Path(f'{name}.py'), Path(f'{name}_data')
    for path in (config, folder):
        if path.exists() or path.is_symlink():
            raise FileExistsError(f'{path} exists and is left as it is; choose another --name, or '
                                  'remove it')
    if not data.is_dir():
        raise FileNotFoundError(f'expected a folder with images and labels, found '
                                f'{"the file" if data.exists() else "nothing at"} {data}')
    notes: List[str] = []
    files = find_files(data, notes)
    plan: Dict[str, Any] = dict(classes=classes, ignored=ignored, notes=notes, files=files,
                                root=data, seed=seed, source=source)
    samples, extra = dict(seg=_plan_masks, det=_plan_boxes, cls=_plan_folders)[task](**plan)
    counts = Counter(s.split for s in samples)
    turned = [s.image for s in samples if s.orientation > 1]
    if turned and task != 'cls':
        notes.append('images with an EXIF orientation, which is applied on reading; check that '
                     f'the labels fit (check_config --pictures): {few(turned, data)}')
    width, height = (int(np.median([s.size[i] for s in samples])) for i in (0, 1))
    _tell_classes(samples, extra['labels'], notes)
    facts = Facts(command, task, str(folder), (counts['train'], counts['val'], counts['test']),
                  size=(width, height), smallest=min(min(s.size) for s in samples),
                  **extra['facts'])
    with replacing(folder) as part:
        part.mkdir()
        extra['write'](part)
        (part / RECORD).write_text(json.dumps(
            dict(command=command, data=str(data.resolve()), seed=seed, notes=notes), indent=1))
    project = Project(config, folder, facts, largest_batch(facts), notes)
    project.write_config()
    return project


def _tell_classes(samples: Sequence[Sample], labels: Dict[Any, str], notes: List[str]) -> None:
    """Report classes missing from a split, and names that differ only in case."""
    for split in ('train', 'val'):
        there = {x for s in samples if s.split == split for x in s.labels}
        lacking = [n for x, n in labels.items() if x not in there]
        if lacking:
            notes.append(f'no image of {split} has {some_of(map(repr, lacking))}')
    folded = Counter(n.strip().lower() for n in set(labels.values()))
    twins = sorted(n for n in set(labels.values()) if folded[n.strip().lower()] > 1)
    if twins:
        notes.append(f'names of classes that differ only in case or spaces: '
                     f'{", ".join(map(repr, twins))}')


def _plan_masks(files: List[Path], root: Path, classes: Any, ignored: Any, seed: int,
                notes: List[str], source: Optional[str]) -> Any:
    pairs = find_pairs(files, root, notes)
    samples, meaning = interpret(pairs, files, root, classes, ignored, notes)
    samples = set_splits(samples, files, root, seed, notes, 'Segmentation')
    labels = {v: meaning.classes[i] for v, i in meaning.ids.items() if i < len(meaning.classes)}
    suffix = Counter(s.image.suffix for s in samples).most_common(1)[0][0]

    def write(folder: Path) -> None:
        for sample in samples:
            image, mask = (Path(folder, kind, sample.split, sample.name + end)
                           for kind, end in (('images', suffix), ('masks', '.png')))
            image.parent.mkdir(parents=True, exist_ok=True)
            mask.parent.mkdir(parents=True, exist_ok=True)
            image.symlink_to(sample.image.resolve())
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda s: write_mask(s, meaning, Path(
                folder, 'masks', s.split, s.name + '.png')), samples))

    return samples, dict(labels=labels, write=write, facts=dict(
        classes=meaning.classes, palette=meaning.palette, suffix=suffix))


def _plan_boxes(files: List[Path], root: Path, classes: Any, ignored: Any, seed: int,
                notes: List[str], source: Optional[str]) -> Any:
    samples, found = find_boxes(files, root, source, classes, notes)
    used = {x for s in samples for x in s.labels}
    unused = [n for n in found if n not in used]
    if unused and not classes:
        notes.append(f'left out, because no box is of these classes: {some_of(unused)}')
    names = choose_classes(found if classes else [n for n in found if n in used], classes,
                           ignored or (), str(root))
    for sample in samples:
        sample.truth = [b for b in sample.truth if b.name in names]
        sample.labels = frozenset(b.name for b in sample.truth)
    boxes = [b for s in samples for b in s.truth if not b.crowd]
    if not boxes:
        raise ValueError(f'{root}: no box is of {", ".join(names)}')
    masks = all(b.segmentation for b in boxes)
    shaped = sum(bool(b.segmentation) for b in boxes)
    if shaped and not masks:
        notes.append(f'boxes with a mask: {shaped} of {len(boxes)}, so boxes alone are trained')
    samples = set_splits(samples, files, root, seed, notes, 'Main')

    def write(folder: Path) -> None:
        (folder / 'images').symlink_to(root.resolve())
        for split in _SPLITS:
            some = [s for s in samples if s.split == split]
            if some:
                write_coco(some, names, root, folder / f'{split}.json')

    return samples, dict(labels={n: n for n in names}, write=write, facts=dict(
        classes=names, masks=masks))


def _plan_folders(files: List[Path], root: Path, classes: Any, ignored: Any, seed: int,
                  notes: List[str], source: Optional[str]) -> Any:
    images = [p for p in files if is_image(p)]
    parts = {p: list(p.relative_to(root).parts[:-1]) for p in images}
    # A folder around all others is neither a split nor a class.
    while images and all(len(x) > 1 for x in parts.values()) and len(
            {x[0] for x in parts.values()}) == 1 and not split_in(parts[images[0]][0]):
        for some in parts.values():
            some.pop(0)
    told = {p: split_of(p, root) for p in images if parts[p]}  # not what lies beside the folders
    split = bool(told) and all(told.values()) and 'train' in told.values()
    samples = []
    for path in images:
        rest = parts[path]
        if split and rest:
            rest.pop([split_in(x) for x in rest].index(told[path]))
        samples.append(Sample(path, path.relative_to(root).as_posix(), rest[0] if rest else None,
                              frozenset(rest[:1]), told.get(path, '') if split else ''))
    bare = [s.image for s in samples if not s.truth]
    samples = [s for s in samples if s.truth]
    found = sorted({str(s.truth) for s in samples})
    if len(found) < 2:
        raise ValueError(
            f'{root}: expected a folder of images for each class, in train/ and val/ or without '
            f'these, found {len(images)} images in folders: '
            f'{few(sorted({p.parent for p in images}), root)}')
    if len({split_in(n, free=True) for n in found} - {''}) > 1:
        raise ValueError(f'{root}: expected folders of classes, with or without train/ and val/ '
                         f'around all of them, found {some_of(found)}')
    if bare:
        notes.append(f'images in no folder of a class, left out: {few(bare, root)}')
    names = choose_classes(found, classes, ignored or (), str(root))
    if len(names) < len(found):
        notes.append(f'left out: {", ".join(n for n in found if n not in names)}')
    samples = measure([s for s in samples if s.truth in names], root, notes)
    samples = set_splits(samples, files, root, seed, notes)

    def write(folder: Path) -> None:
        (folder / 'images').symlink_to(root.resolve())
        for split in _SPLITS:
            lines = [f'{s.name} {names.index(s.truth)}\n' for s in samples if s.split == split]
            if lines:
                (folder / f'{split}.txt').write_text(''.join(lines), encoding='utf-8')

    return samples, dict(labels={n: n for n in names}, write=write, facts=dict(classes=names))
