"""The checkpoint that a run resumes from."""
import logging
import re
from pathlib import Path
from typing import List, Optional, Tuple, Union
from zipfile import BadZipFile, ZipFile, is_zipfile

from mmengine.logging import print_log

from .checkpoint_io import load_checkpoint

__all__ = ['find_checkpoint']

_NEEDED = ('meta', 'state_dict', 'optimizer', 'message_hub')


def find_checkpoint(work_dir: Union[str, Path]) -> Optional[str]:
    """Find the checkpoint that ``last_checkpoint`` names, or else the newest readable one.

    A checkpoint is read as a whole before it is chosen. None means that there is no checkpoint.

    Raises:
        ValueError: There are checkpoints and none is readable.
    """
    work_dir = Path(work_dir)
    pointer = work_dir / 'last_checkpoint'
    named = pointer.read_text(errors='replace').strip() if pointer.is_file() else ''
    # Other storage, or the folder of a runner with a format of its own: mmengine looks there.
    if '://' in named or named and Path(named).is_dir():
        return named
    candidates = _candidates(work_dir, named)
    problems: List[str] = []
    for path in candidates:
        problem = _problem(path)
        if problem is None:
            if problems or not named:
                why = '; '.join(problems) if named else f'{pointer} is missing or empty'
                print_log(f'resuming from {path}, the newest readable checkpoint: {why}',
                          logger='current', level=logging.WARNING)
            return str(path)
        problems.append(problem)
    if problems:
        raise ValueError(f'no readable checkpoint to resume from in {work_dir}: '
                         f'{"; ".join(problems)}; without --resume, training starts anew')
    print_log(f'no checkpoint in {work_dir}: training starts anew', logger='current',
              level=logging.WARNING)
    return None


def _candidates(work_dir: Path, named: str) -> List[Path]:
    """Return the checkpoints by preference: the one that is named, then the newest."""
    paths = []
    if named and '\0' not in named:
        # Of a folder that has been moved, the one of the same name.
        paths = [p for p in (Path(named), work_dir / Path(named).name) if p.is_file()][:1]
        paths = paths or [Path(named)]
    folders = {work_dir, *(p.parent for p in paths if p.is_file())}
    others = [p for folder in folders for p in folder.glob('*.pth')
              if not p.name.startswith(('best_', '.')) and p not in paths]
    return paths + sorted(others, key=_age, reverse=True)


def _age(path: Path) -> Tuple[int, float]:
    number = re.search(r'(\d+)\.pth$', path.name)
    return (int(number.group(1)) if number else -1, path.stat().st_mtime)


def _problem(path: Path) -> Optional[str]:
    """Return the reason why a run cannot resume from a file, or None."""
    try:
        content = load_checkpoint(str(path), map_location='cpu', mmap=is_zipfile(path))
        with ZipFile(path) as parts:  # torch does not look at its checksums
            damaged = parts.testzip()  # reads all values
    except BadZipFile:
        damaged = None  # torch's format of long ago has none
    except (OSError, ValueError) as e:
        return str(e)
    if damaged:
        return f'{path} is damaged: the checksum of {damaged} is wrong'
    missing = [k for k in _NEEDED if not isinstance(content, dict) or k not in content]
    return f'{path} has no {", ".join(missing)}' if missing else None
