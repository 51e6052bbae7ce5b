"""Data sets that name the file when a sample cannot be used, and may continue without it."""
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Set

from mmengine.dataset import Compose
from mmengine.logging import print_log
from mmengine.registry import DATASETS as MMENGINE_DATASETS

from mmscheme.registry import DATASETS
from mmscheme.utils.check_args import check_choice, check_count
from mmscheme.utils.image_files import lost_part
from mmscheme.utils.user_errors import BadDataError, is_deliberate

__all__ = ['POLICIES', 'Guard', 'GuardedDataset', 'describe_bad_data']

POLICIES = ('stop', 'skip')

# Keys under which data sets keep the files of a sample.
_PATHS = ('img_path', 'seg_map_path')


class Guard(Compose):
    """A pipeline whose failures name the file.

    Args:
        pipeline: The pipeline.
        policy: ``'stop'`` raises; ``'skip'`` gives None, for which mmengine's data sets take
            another sample at random.
        limit: Different files after which it stops anyway.
        log: File to which each skipped sample is added, a line of JSON. All processes of a run
            share it.
        training: Check that image and label map have one size in the end.
    """

    def __init__(self, pipeline: Compose, policy: str = 'stop', limit: int = 100,
                 log: Optional[str] = None, training: bool = True) -> None:
        self.transforms = pipeline.transforms
        self.policy, self.limit, self.log, self.training = policy, limit, log, training
        self.start = time.time()
        self._told: Set[str] = set()

    def __call__(self, data: Dict[str, Any]) -> Optional[Dict[str, Any]]:
        """Transform a sample; return None for one that cannot be used.

        Raises:
            BadDataError: It cannot be used and the policy is to stop, or too many cannot.
        """
        paths = {key: data[key] for key in _PATHS if isinstance(data.get(key), str)}
        try:
            for path in paths.values():
                if os.path.isfile(path):
                    lost = lost_part(path)
                    if lost:
                        raise ValueError(f'{path}: {lost}')
            sample = super().__call__(data)
            if self.training:
                _compare_sizes(sample)
            return sample
        except (MemoryError, BadDataError):
            raise
        except Exception as e:
            self._refuse(paths, data, e)
            return None

    def _refuse(self, paths: Dict[str, str], data: Dict[str, Any], error: Exception) -> None:
        name = paths.get('img_path') or f'sample {data.get("sample_idx")}'
        reason = ' '.join(str(error).split()) or type(error).__name__
        if not isinstance(error, (ValueError, OSError)):
            reason = f'{type(error).__name__}: {reason}'
        others = [p for k, p in paths.items() if k != 'img_path' and p not in reason]
        line = f'bad data: {name} ({", ".join([reason[:400], *others])})'
        # A damaged file needs no traceback, an error in the code of a transform does.
        cause = None if is_deliberate(error) else error
        if self.policy == 'stop':
            hint = "; on_bad_data='skip' goes on without it" if self.training else ''
            raise BadDataError(line + hint) from cause
        if name not in self._told:
            self._told.add(name)
            print_log(f'{line}; another sample takes its place', logger='current', level=30)
        if self.log is not None:
            self._note(name, reason)
        bad = _count(self._entries()) if self.log is not None else dict.fromkeys(self._told, 1)
        if len(bad) > self.limit:
            raise BadDataError(f'{len(bad)} bad files, more than max_bad_data={self.limit}: '
                               f'{", ".join(list(bad)[:3])}, ...; the last: {line}') from cause

    def _note(self, name: str, reason: str) -> None:
        path = Path(str(self.log))
        path.parent.mkdir(parents=True, exist_ok=True)
        # One write at the end of the file: lines of several processes do not mix.
        with open(path, 'a', encoding='utf-8') as f:
            f.write(json.dumps(dict(file=name, reason=reason[:400], time=time.time())) + '\n')

    def _entries(self) -> List[Dict[str, Any]]:
        return list(_read(str(self.log), self.start))


def GuardedDataset(of: str, on_bad_data: str = 'stop', max_bad_data: int = 100,
                   bad_data_log: Optional[str] = None, training: bool = True, **kwargs: Any
                   ) -> Any:
    """Build a data set of any type that names, or skips, files it cannot use.

    Without bad data, samples, their order and all random numbers stay as they are.

    Args:
        of: Type of the data set.
        on_bad_data: ``'stop'``, or ``'skip'`` to take another sample at random.
        max_bad_data: Number of different bad files after which a run stops anyway.
        bad_data_log: File to which skipped samples are added.
        training: Whether the data are for training; others are never skipped.
        **kwargs: Arguments of the data set.

    Returns:
        The data set, of its own class.

    Raises:
        ValueError: ``on_bad_data`` is another, or it is ``'skip'`` in validation or testing,
            where the metric has to cover all data.
    """
    check_choice('on_bad_data', on_bad_data, POLICIES)
    check_count('max_bad_data', max_bad_data, 0)
    dataset = MMENGINE_DATASETS.build(dict(type=of, **kwargs))
    training = training and not getattr(dataset, 'test_mode', False)
    if on_bad_data == 'skip' and not training:
        raise ValueError("on_bad_data='skip' works only in training: a metric needs all data")
    if isinstance(getattr(dataset, 'pipeline', None), Compose):
        dataset.pipeline = Guard(dataset.pipeline, on_bad_data, max_bad_data, bad_data_log,
                                 training)
    elif on_bad_data == 'skip':
        raise ValueError(f"{of}: on_bad_data='skip' needs a data set with mmengine's pipeline")
    return dataset


DATASETS.register_module(module=GuardedDataset)


def _compare_sizes(sample: Any) -> None:
    """Check that image and label map have one size, which the frameworks find late or never."""
    if not isinstance(sample, dict):
        return
    image = getattr(sample.get('inputs'), 'shape', None)
    labels = getattr(getattr(sample.get('data_samples'), 'gt_sem_seg', None), 'shape', None)
    if image and labels and tuple(image[-2:]) != tuple(labels[-2:]):
        raise ValueError(f'image and mask have different sizes: {tuple(image[-2:])} and '
                         f'{tuple(labels[-2:])} (height, width) after the pipeline')


def _read(path: str, since: float) -> Iterator[Dict[str, Any]]:
    if not os.path.isfile(path):
        return
    with open(path, encoding='utf-8') as f:
        for line in f:
            try:
                entry = json.loads(line)
            except ValueError:  # a process was killed while it wrote
                continue
            if entry.get('time', 0) >= since:
                yield entry


def _count(entries: List[Dict[str, Any]]) -> Dict[str, int]:
    return Counter(entry['file'] for entry in entries)


def describe_bad_data(path: str, since: float = 0.) -> List[str]:
    """Describe the samples skipped since a time: a headline, then a line for each file."""
    entries = list(_read(path, since))
    reasons = {e['file']: e.get('reason', '') for e in entries}
    lines = [f'{name}: {n} times ({reasons[name]})' for name, n in _count(entries).items()]
    if lines:
        lines.insert(0, f'{len(lines)} files are bad data, {len(entries)} samples were replaced by '
                     f'others ({path}):')
    return lines
