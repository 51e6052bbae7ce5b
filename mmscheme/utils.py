"""Entry points, rules for names of files, quiet: what needs no OpenMMLab at import time."""
import importlib
import logging
import os
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Dict, Iterator, List, Sequence, Union

__all__ = ['check_not_read', 'get_config_path', 'quiet', 'register_all_modules', 'tell_apart']


def _configs_dir() -> Path:
    """The folder of the shipped configs: in the installed package, or in the clone."""
    package = Path(__file__).resolve().parent
    for folder in (package / '.mim' / 'configs', package.parent / 'configs'):
        if (folder / '_base_').is_dir():
            return folder
    raise FileNotFoundError(f'the configs of mmscheme were not installed with it: {package}')


def get_config_path(name: str = '') -> str:
    """The path of a shipped config, to inherit from it in a project of one's own.

    Example:
        ``_base_ = __import__('mmscheme').get_config_path('upernet_scheme_s_ade20k.py')``
        as the first line of a config.

    Args:
        name: File name below the folder of configs; empty for the folder itself.

    Returns:
        The absolute path.

    Raises:
        FileNotFoundError: There is no such config; the message lists those there are.
    """
    folder = _configs_dir()
    if name and not (folder / name).is_file():
        found = ', '.join(sorted(p.name for p in folder.glob('*.py')))
        raise FileNotFoundError(f'no config {name!r} in mmscheme; there are: {found}')
    return str((folder / name).resolve())


def register_all_modules(init_default_scope: bool = False) -> None:
    """Registers all modules of mmscheme now instead of when a config first names one.

    Args:
        init_default_scope: Also makes ``mmscheme`` the default scope, so that its
            types are found without prefix. The configs of mmscheme do not need it:
            they keep the scope of their task and write ``mmscheme.X``.
    """
    for module in ('models', 'datasets', 'engine.hooks', 'engine.loops'):
        importlib.import_module(f'mmscheme.{module}')
    if init_default_scope:
        from mmengine.registry import init_default_scope as init_scope
        init_scope('mmscheme')


@contextmanager
def quiet(level: int = logging.WARNING) -> Iterator[None]:
    """Without log records up to a level, from whichever logger; nests."""
    before = logging.root.manager.disable
    logging.disable(max(before, level))
    try:
        yield
    finally:
        logging.disable(before)


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
