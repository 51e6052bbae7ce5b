"""Tables of the labels of a run's data: how many of each class, and what looks like a mistake."""
import hashlib
import os.path as osp
import threading
import xml.etree.ElementTree as ElementTree
from collections import Counter
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from .findings import Findings

__all__ = ['LabelTable', 'count_labels', 'judge_labels', 'overlaps']

# Samples of which labels are counted where nothing else is read for it.
_MOST = 20_000


class LabelTable:
    """Count the labels of a data set.

    Args:
        split: ``'train'``, ``'val'`` or ``'test'``.
        unit: The things that are counted: pixels, boxes or images.
        names: The classes.

    Attributes:
        counts: Number by label.
        others: Number by ids or names that are not classes.
        read, total: Samples counted, and all there are.
        shift: First id in the files, 1 for ``reduce_zero_label``; its id 0 is ignored.
        files: Paths of the images.
    """

    def __init__(self, split: str, unit: str, names: Sequence[str] = ()) -> None:
        self.split, self.unit, self.names = split, unit, tuple(names)
        self.counts: Counter = Counter()
        self.others: Counter = Counter()
        self.read = self.total = self.shift = self.zeros = 0
        self.files: List[str] = []
        self._lock = threading.Lock()

    def add(self, labels: np.ndarray) -> None:
        """Add a mask; several threads may."""
        numbers = np.bincount(labels.ravel())
        with self._lock:
            self.read += 1
            for label in np.flatnonzero(numbers):
                known = label < len(self.names)
                (self.counts if known else self.others)[int(label)] += int(numbers[label])

    def missing(self) -> List[str]:
        """Return the classes that no label has; empty unless all samples were read."""
        return [] if self.read < self.total else [
            str(n) for i, n in enumerate(self.names) if not self.counts[i]]

    def lines(self, most: Optional[int] = None) -> List[str]:
        """Return the table, or with ``most`` one line with so many classes."""
        total = sum(self.counts.values()) + sum(self.others.values())
        head = (f'{self.split}: {self.total} images, {total} {self.unit}'
                + (f' in the {self.read} that were read' if self.read < self.total else ''))
        rows = [(f'{f"{i + self.shift} " if self.unit == "pixels" else ""}{name}', self.counts[i])
                for i, name in enumerate(self.names)]
        rest = [(f'{"0, " * self.shift}{key} (ignored)' if key == 255 else f'{key} (no class)', n)
                for key, n in sorted(self.others.items(), key=str)]
        shares = [(name, f'{100 * n / total:.1f} %' if self.unit == 'pixels' and total else str(n))
                  for name, n in [*rows, *rest]]
        if most is None:
            return [head, *(f'  {name:30} {share:>10}' for name, share in shares)]
        most = min(most, len(rows))
        shown = [f'{name} {share}' for name, share in [*shares[:most], *shares[len(rows):]]]
        more = len(rows) - most
        return [f'{head}: {", ".join(shown)}' + (f', and {more} classes' if more > 0 else '')]


def count_labels(table: LabelTable, dataset: Any) -> Tuple[int, str]:
    """Count the labels of a data set that lists them, of boxes or images.

    Returns:
        The number of boxes without area, and the first file with one.
    """
    table.total = len(dataset)
    flat, first = 0, ''
    for index in range(min(table.total, _MOST)):
        info = dataset.get_data_info(index)
        table.read += 1
        path = str(info.get('img_path'))
        table.files.append(path)
        boxes = info.get('instances')
        if boxes is None:
            label = info.get('gt_label')
            table.counts.update(np.atleast_1d(label).tolist() if label is not None else ())
            continue
        table.unit = 'boxes'
        for box in boxes:
            table.counts[box['bbox_label']] += 1
            x1, y1, x2, y2 = box['bbox']
            if (x2 <= x1 or y2 <= y1) and not box.get('ignore_flag'):
                flat, first = flat + 1, first or path
        if info.get('xml_path'):
            names = [o.findtext('name')
                     for o in ElementTree.parse(info['xml_path']).getroot().findall('object')]
            table.others.update(n for n in names if n not in table.names)
    return flat, first


def judge_labels(table: LabelTable, where: str, ignore_index: int, own_names: bool,
                 findings: Findings) -> None:
    """Add what looks like a mistake in the labels of a data set."""
    names, missing = table.names, table.missing()
    unknown = [k for k in table.others if isinstance(k, str)]
    if table.unit == 'pixels' and len(names) > 1 and set(table.counts) <= {0} \
            and table.others[ignore_index]:
        findings.error(f'{where}: all pixels are {table.shift} ({names[0]}) or ignored '
                       f'({ignore_index}), so {names[1]} would never be learned: write its pixels '
                       f'as {1 + table.shift}')
    elif missing and unknown:
        findings.error(f'{where}: no label is {", ".join(map(repr, missing[:5]))}, and the classes '
                       f'do not have {", ".join(map(repr, sorted(unknown)[:5]))}, which '
                       f'{sum(table.others.values())} of them are: is a name misspelt?')
    elif missing and table.split == 'train' and table.counts:
        findings.warn(f'{where}: {len(missing)} classes have no label: {", ".join(missing[:5])}')
    elif unknown:
        findings.warn(f'{where}: {sum(table.others.values())} labels have names that are not '
                      f'classes and will be left out: {", ".join(sorted(unknown)[:5])}')
    share = table.zeros / max(1, sum(table.counts.values()) + sum(table.others.values()))
    if table.shift and own_names and share >= 0.05:
        findings.warn(f'{where}: reduce_zero_label=True: id 0, {share:.0%} of all pixels, is '
                      f'ignored and id 1 is {names[0]!r}; where id 0 is {names[0]!r}, set '
                      'reduce_zero_label=False')


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
    splits = sorted(keys, key=('train', 'val', 'test').index)
    return [f'{len(common)} of {len(keys[b])} images of {b} are images of train too: its metric '
            'says nothing about others' for b in splits
            if b != 'train' and (common := keys.get('train', set()) & keys[b])]


def _digest(path: str) -> str:
    with open(path, 'rb') as f:
        return hashlib.sha256(f.read()).hexdigest()
