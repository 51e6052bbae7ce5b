"""Rules for the names of files that are written."""
import os
from itertools import count
from pathlib import Path
from typing import Dict, Iterator, List, Sequence, Union

__all__ = ['check_not_read', 'tell_apart']


def check_not_read(target: Union[str, Path], **sources: Union[None, str, Path]) -> None:
    """Refuses to write over a file that is read, also where a link leads to it.

    Args:
        target: File to write.
        **sources: Files that are read, by what they are; None and missing ones pass.

    Raises:
        ValueError: The target is one of them.
    """
    for kind, source in sources.items():
        if source and os.path.exists(source) and os.path.exists(target) and (
                os.path.samefile(source, target)):
            raise ValueError(f'{target}: would replace the {kind} that is read; choose another '
                             'name to write')


def tell_apart(names: Sequence[str]) -> List[str]:
    """Names of files no two of which are the same.

    Args:
        names: With repetitions.

    Returns:
        The same names, all but the first of a kind with a number before the suffix:
        ``x.png, x_2.png``.
    """
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
