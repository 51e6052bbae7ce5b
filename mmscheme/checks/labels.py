"""Tables of the labels of a run's data: how many of each class, and what looks like a mistake."""
import hashlib
import os
import os.path as osp
import threading
import xml.etree.ElementTree as ElementTree
from collections import Counter
from typing import Any, Dict, List, Optional, Sequence, Set

import numpy as np

from mmscheme.utils.user_errors import some_of

from .findings import Findings

__all__ = ['LabelTable', 'count_labels', 'judge_folders', 'judge_labels', 'overlaps']

# Samples of which labels are counted where nothing else is read for it.
_MOST = 20_000


class LabelTable:
    """Count the labels of a data set.

    Args:
        split: ``'train'``, ``'val'`` or ``'test'``.
        unit: The things that are counted: pixels, boxes or images.
        names: The classes.
        where: Words that tell the data set from others.

    Attributes:
        counts: Number by label.
        others: Number by ids or names that are not classes.
        read, total: Samples counted, and all there are.
        shift: First id in the files, 1 for ``reduce_zero_label``; its id 0 is ignored.
        ids: Ids in the files by label, where the classes are some of those of the files.
        ignored: Ids of pixels that all heads ignore.
        own_names: Whether the config names the classes.
        files: Paths of the images.
        turned: Paths of images turned by half or mirrored by their EXIF orientation.
        folders: Number of images by folder and label.
    """

    def __init__(self, split: str, unit: str, names: Sequence[str] = (), where: str = '') -> None:
        self.split, self.unit, self.names, self.where = split, unit, tuple(names), where
        self.counts: Counter = Counter()
        self.others: Counter = Counter()
        self.folders: Counter = Counter()
        self.read = self.total = self.shift = 0
        self.ignored: Set[Any] = set()
        self.ids: Dict[int, int] = {}
        self.own_names = False
        self.files: List[str] = []
        self.turned: List[str] = []
        self._lock = threading.Lock()

    def add(self, labels: np.ndarray) -> None:
        """Add a mask; several threads may."""
        if labels.dtype == np.uint8:  # faster
            numbers = np.bincount(labels.ravel())
            ids = np.flatnonzero(numbers)
            numbers = numbers[ids]
        else:
            ids, numbers = np.unique(labels, return_counts=True)
        with self._lock:
            self.read += 1
            for label, number in zip(ids.tolist(), numbers.tolist()):
                known = 0 <= label < len(self.names)
                (self.counts if known else self.others)[label] += number

    def missing(self) -> List[str]:
        """Return the classes that no label has; empty unless all samples were read."""
        return [] if self.read < self.total else [
            str(n) for i, n in enumerate(self.names) if not self.counts[i]]

    def lines(self, most: Optional[int] = None) -> List[str]:
        """Return the table, or with ``most`` one line with so many classes."""
        total = sum(self.counts.values()) + sum(self.others.values())
        head = (f'{self.split}: {self.total} images'
                + (f', {total} {self.unit}' if self.unit != 'images' else '')
                + (f' in the {self.read} that were read' if self.read < self.total else ''))
        rows = [(f'{self.ids.get(i, i + self.shift)} {name}' if self.unit == 'pixels' else name,
                 self.counts[i]) for i, name in enumerate(self.names)]
        rest = [(f'{"0, " * self.shift}{key} (ignored)' if key in self.ignored else
                 f'{key} (no class)', n) for key, n in self.others.most_common()]
        shares = [(name, f'{100 * n / total:.1f} %' if self.unit == 'pixels' and total else str(n))
                  for name, n in [*rows, *rest]]
        if most is None:
            return [head, *(f'  {name:30} {share:>10}' for name, share in shares)]
        most = min(most, len(rows))
        shown = [f'{name} {share}' for name, share in [
            *shares[:most], *shares[len(rows):len(rows) + max(most, 5)]]]
        more = len(rows) - most
        return [f'{head}: {", ".join(shown)}' + (f', and {more} more classes' if more > 0 else '')]


def count_labels(table: LabelTable, dataset: Any, every: bool, findings: Findings) -> None:
    """Count the labels of a data set that lists them, of boxes or images.

    Labels that no class has are errors, as are boxes that cannot be meant so.
    """
    table.total = len(dataset)
    number: Counter = Counter()  # of boxes by what they are
    first: Dict[str, str] = {}
    for index in range(table.total if every else min(table.total, _MOST)):
        info = dataset.get_data_info(index)
        table.read += 1
        path = str(info.get('img_path'))
        table.files.append(path)
        boxes = info.get('instances')
        if boxes is None:
            label = info.get('gt_label')
            labels = [] if label is None or isinstance(label, dict) else \
                np.atleast_1d(label).tolist()
            if len(labels) == 1 and isinstance(labels[0], int):
                table.folders[osp.dirname(path), labels[0]] += 1
        else:
            table.unit = 'boxes'
            labels = [b['bbox_label'] for b in boxes if not b.get('ignore_flag')]
            table.counts.update(b['bbox_label'] for b in boxes if b.get('ignore_flag'))
        for label in labels:
            stray = table.names and isinstance(label, int) and not 0 <= label < len(table.names)
            (table.others if stray else table.counts)[label] += 1
            if stray:
                findings.error(f'label {label} of {path}: expected 0 to {len(table.names) - 1}',
                               'label')
        width, height = (info.get(k) or float('inf') for k in ('width', 'height'))
        before = set()
        for box in boxes or ():
            x1, y1, x2, y2 = box['bbox']
            this, ignored = (box['bbox_label'], x1, y1, x2, y2), bool(box.get('ignore_flag'))
            kinds = dict(all=True, ignored=ignored, twice=this in before,
                         flat=(x2 <= x1 or y2 <= y1) and not ignored,
                         # Rounding and lines of a pen's width are no mistake.
                         over=min(x1, y1) < -2 or x2 > width + 2 or y2 > height + 2,
                         corners=x2 > 2 * x1 and y2 > 2 * y1 and 'xml_path' not in info)
            number.update(kinds)
            first.update({k: path for k, v in kinds.items() if v and k not in first})
            before.add(this)
        if info.get('xml_path'):
            names = [o.findtext('name')
                     for o in ElementTree.parse(info['xml_path']).getroot().findall('object')]
            table.others.update(n for n in names if n not in table.names)
    told = {k: f'{table.where}: {number[k]} of {number["all"]} boxes {{}} (first in {v})'
            for k, v in first.items()}
    if number['flat'] and table.split == 'train':
        findings.error(told['flat'].format('have no area') + ': their loss would not be finite; '
                       'remove them, or set filter_cfg.bbox_min_size=1')
    if number['all'] and number['ignored'] == number['all']:
        findings.error(told['ignored'].format('are ignored') + ': nothing would be learned or '
                       'counted; set iscrowd of COCO or difficult of VOC to 0')
    corners = number['corners'] == number['all']
    if 20 * number['over'] > number['all']:
        report = findings.error if corners or 2 * number['over'] > number['all'] else findings.warn
        report(told['over'].format('reach over the edge of their image') + (
            ': they look like [x1, y1, x2, y2], expected [x, y, width, height]' if corners else
            ': are they pixels of these images, from their top left corner?'))
    if 100 * number['twice'] > number['all']:
        findings.warn(told['twice'].format('are there twice') + ': only one of two can be found')


def judge_labels(table: LabelTable, tables: Sequence[LabelTable], findings: Findings) -> None:
    """Add what looks like a mistake in the labels of a data set.

    Args:
        table: Its labels.
        tables: Those of all data sets of the run.
        findings: Changed in place.
    """
    names, where = table.names, table.where
    trained = [t for t in tables if t.split == 'train']
    lacking = [set(t.missing()) for t in trained]
    missing = [n for n in table.missing() if all(n in names for names in lacking)]
    unknown = [k for k in table.others if isinstance(k, str)]
    ids = ', '.join(map(str, table.ignored))
    ignored = sum(table.others[i] for i in table.ignored)
    total = sum(table.counts.values()) + sum(table.others.values())
    rest = sum(table.counts.values()) - max(table.counts.values(), default=0)
    first_alone = [set(t.counts) <= {0} for t in [table, *trained]]
    if names and ignored and all(first_alone):
        findings.error(
            f'{where}: all pixels are {table.shift} ({names[0]}) or ignored ({ids}), so '
            + (f'{names[1]} would never be learned: write its pixels as {1 + table.shift}'
               if len(names) > 1 else 'nothing would be learned: write the pixels of '
               f'{names[0]} as {1 + table.shift}, with two classes, the background first'))
    elif missing and unknown:
        (findings.error if trained else findings.warn)(
            f'{where}: no {table.unit} of {some_of(map(repr, missing), 5)}, but '
            f'{sum(table.others.values())} of {some_of(map(repr, sorted(unknown)), 5)}, which '
            'no class is called: is a name misspelt?')
    elif missing and table.split == 'train' and table.counts:
        findings.warn(f'{where}: no {table.unit} of {some_of(missing, 5)} '
                      f'({len(missing)} of {len(names)} classes)')
    elif unknown:
        findings.warn(f'{where}: {sum(table.others.values())} labels have names that are not '
                      f'classes and will be left out: {some_of(sorted(unknown), 5)}')
    twice = [path for path, number in Counter(table.files).items() if number > 1]
    if twice and table.counts:
        findings.warn(f'{where}: {len(twice)} images are listed more than once, the first: '
                      f'{twice[0]}; their labels may contradict each other')
    if table.turned:
        findings.warn(f'{where}: the EXIF orientation turns or mirrors {len(table.turned)} images, '
                      f'as {min(table.turned)}: are their labels for what is shown?')
    if table.ids:
        return  # what is ignored may be the classes that the config leaves out
    if table.shift and table.own_names and table.others[255] >= 0.05 * max(1, total):
        findings.warn(f'{where}: reduce_zero_label=True: id 0, {table.others[255] / total:.0%} of '
                      f'all pixels, is ignored and id 1 is {names[0]!r}; where id 0 is '
                      f'{names[0]!r}, set reduce_zero_label=False')
    elif not all(first_alone) and (2 * ignored > total or not table.shift and 100 * ignored > total
                                   and ignored > 10 * rest):
        findings.warn(f'{where}: {ignored / total:.0%} of all pixels are ignored ({ids}), and '
                      f'{rest / total:.2%} of another class than the commonest: if {ids} is a '
                      'class, write its own id')


def _bare(name: str) -> str:
    """Return a name without case, separators and the end of a plural."""
    text = ''.join(c for c in name.casefold() if c.isalnum())
    return text.rstrip('es') or text


def judge_folders(table: LabelTable, folders: Dict[str, int], findings: Findings) -> None:
    """Compare the labels of images with the names of their folders.

    Args:
        table: The labels of a data set.
        folders: Labels by folder, or none where a list gives them.
        findings: Changed in place.
    """
    names = [str(n) for n in table.names]
    bare = {_bare(n) for n in names}
    found: Dict[str, Counter] = {}
    for (path, label), number in table.folders.items() if names and not folders else ():
        part = next((p for p in reversed(path.split(os.sep)) if _bare(p) in bare), None)
        if part is not None:
            found.setdefault(part, Counter())[label] += number
    # A folder of almost one label, beside others: not one that holds all images.
    labels = folders or {part: n.most_common(1)[0][0] for part, n in found.items()
                         if len(found) > 1 and max(n.values()) > 0.9 * sum(n.values())}
    meant = {f: {i for i, n in enumerate(names) if n == f} or
             {i for i, n in enumerate(names) if _bare(n) == _bare(f)} for f in labels}
    known = sum(map(bool, meant.values()))
    wrong = [f for f, label in labels.items() if known and label not in meant[f]
             and 0 <= label < len(names)]
    for folder in wrong:
        label = labels[folder]
        text = (f'{table.where}: folder {folder} has label {label}, which metainfo.classes calls '
                f'{names[label]!r}')
        if meant[folder]:
            order = sorted(labels, key=labels.__getitem__)
            more = f', and {len(wrong) - 1} more' if len(wrong) > 1 else ''
            findings.error(f'{text}{more}: ' + (
                f'write classes={order}' if sorted(labels.values()) == [*range(len(names))] else
                'are the labels, from 0, and the order of the classes right?'))
            break
        elif 2 * known >= len(labels):
            findings.warn(text)


def overlaps(tables: Sequence[LabelTable], contents: bool = False) -> List[str]:
    """Return a line for each two splits that have images in common.

    Args:
        tables: The tables of the splits.
        contents: Compare files, not only their paths.
    """
    keys: Dict[str, set] = {}
    for table in tables:
        keys.setdefault(table.split, set()).update(
            _digest(f) if contents else osp.realpath(f) for f in table.files)
    lines = []
    for a, b in (('train', 'val'), ('train', 'test'), ('val', 'test')):
        common = keys.get(a, set()) & keys.get(b, set())
        # Validation and test are often the same data on purpose, but not in part.
        if common and not (a == 'val' and keys[a] == keys[b]):
            lines.append(f'{len(common)} of {len(keys[b])} images of {b} are images of {a} too: '
                         'its metric says nothing about others')
    return lines


def _digest(path: str) -> str:
    if not osp.isfile(path):
        return path
    with open(path, 'rb') as f:
        return hashlib.sha256(f.read()).hexdigest()
