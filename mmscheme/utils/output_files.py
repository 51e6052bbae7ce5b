"""Files that are written: whole or not at all, and under names of their own."""
import os
import shutil
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Dict, Iterator, List, Sequence, Union

__all__ = ['check_not_read', 'remove_parts', 'replacing', 'tell_apart', 'write_bytes']

# At the start of the name of a file that is being written: the suffix stays, because libraries
# choose a format by it.
_PART = '.part-'


@contextmanager
def replacing(target: Union[str, Path]) -> Iterator[Path]:
    """Write a file or folder under a temporary name, then rename it to its own.

    Neither a kill nor a power cut leaves a part of it under its name: it is flushed to the
    disk first. When the block fails, what was there before is untouched.

    Args:
        target: File to write, or a folder that does not exist yet; its parent is made.

    Yields:
        The path to write to, in the same folder and with the same suffix.

    Raises:
        OSError: It cannot be written.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Two processes that write one file do not meet.
    part = target.with_name(f'{_PART}{os.getpid()}-{target.name}')
    try:
        yield part
        _flush(part)
        part.replace(target)
        _flush(target.parent)  # the name too
    except OSError as e:
        if isinstance(e.filename, (str, Path)):  # the name that the user knows
            e.filename = str(e.filename).replace(str(part), str(target))
        raise
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    if path.is_dir() and os.name != 'posix':
        return
    descriptor = os.open(path, os.O_RDONLY if os.name == 'posix' else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Union[str, Path], data: bytes) -> None:
    """Write a file as :func:`replacing` does."""
    with replacing(path) as part, part.open('wb') as f:
        f.write(data)


def remove_parts(folder: Union[str, Path]) -> List[Path]:
    """Remove what :func:`replacing` left of checkpoints in a folder when it was killed.

    Returns:
        The files that were removed.
    """
    parts = [p for name in ('*.pth', '*-last_checkpoint') for p in Path(folder).glob(_PART + name)]
    for part in parts:
        part.unlink(missing_ok=True)
    return parts


def check_not_read(target: Union[str, Path], **sources: Union[None, str, Path]) -> None:
    """Refuse to write over a file that is read, also where a link leads to it.

    Args:
        target: File to write.
        **sources: Files that are read, by what they are; None and missing ones pass.

    Raises:
        ValueError: The target is one of them, or a folder.
    """
    if os.path.isdir(target):
        raise ValueError(f'expected a file to write, found the folder {target}')
    for kind, source in sources.items():
        if source and os.path.exists(source) and os.path.exists(target) and (
                os.path.samefile(source, target)):
            raise ValueError(f'{target}: would replace the {kind} that is read; choose another '
                             'name to write')


def tell_apart(names: Sequence[str]) -> List[str]:
    """Return the names, all but the first of a kind with a number: ``x.png, x_2.png``."""
    taken = set(names)
    numbers: Dict[str, Iterator[int]] = {}
    result = []
    for name in names:
        unique = name
        if name in numbers:
            stem, suffix = os.path.splitext(name)
            numbered = (f'{stem}_{i}{suffix}' for i in numbers[name])
            unique = next(n for n in numbered if n not in taken)
            taken.add(unique)
        else:
            numbers[name] = count(2)
        result.append(unique)
    return result
