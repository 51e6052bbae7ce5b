"""Place the operators in an environment, for all its programs."""
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Optional

from .activation import find_operators, mmcv_folder

__all__ = ['install', 'uninstall']

_MODULE = '''"""mmcv's operators, by mmscheme on torchvision: this mmcv came without compiled ones.

Placed by `python -m mmscheme install_mmcv_ops`, removed with `--undo`, or with mmcv-lite.
"""
import sys

try:
    from mmscheme.mmcv_ext import activation, operators
except ImportError as e:
    raise ImportError(f'mmcv._ext: mmscheme expected, which has the operators, found none ({e}); '
                      f'install it, or remove {__file__}') from e
sys.modules[__name__] = operators
activation.announce()
'''
# Of the list of files that pip removes with mmcv-lite.
_ENTRY = 'mmcv/_ext.py,,\n'


def _record(target: Path) -> Optional[Path]:
    """Return pip's list of the files of the mmcv-lite that the file lies in, or None."""
    try:
        files = distribution('mmcv-lite').files or []
    except PackageNotFoundError:
        return None
    records = (Path(str(f.locate())).resolve() for f in files if f.name == 'RECORD')
    return next((r for r in records if r.parent.parent == target.parent.parent.resolve()), None)


def _target() -> Path:
    """Return the file to write, which may exist if it was written here."""
    target = mmcv_folder() / '_ext.py'
    if target.exists() and 'mmscheme' not in target.read_text():
        raise FileExistsError(f'{target}: expected a file written by mmscheme, found another')
    return target


def install() -> Path:
    """Write ``mmcv/_ext.py``, which hands out these operators; no import of mmcv is needed.

    Python itself prefers a compiled ``_ext`` beside it. The file joins those that pip removes
    with mmcv-lite.

    Returns:
        The file.

    Raises:
        FileNotFoundError: There is no mmcv.
        FileExistsError: mmcv has operators of its own.
        OSError: It cannot be written.
    """
    target = _target()
    found = find_operators(target.parent)
    if found is not None and found != target:
        raise FileExistsError(f'mmcv: expected an installation without compiled operators, '
                              f'found {found}')
    target.write_text(_MODULE)
    record = _record(target)
    if record is not None and _ENTRY not in record.read_text():
        with open(record, 'a') as file:
            file.write(_ENTRY)
    return target


def uninstall() -> Optional[Path]:
    """Remove what :func:`install` wrote.

    Returns:
        The file, or None if there was none.

    Raises:
        FileNotFoundError: There is no mmcv.
        FileExistsError: The file is not from here.
        OSError: It cannot be removed.
    """
    target = _target()
    if not target.exists():
        return None
    target.unlink()
    record = _record(target)
    if record is not None:
        record.write_text(record.read_text().replace(_ENTRY, ''))
    return target
