"""Put the operators where mmcv looks for them."""
import importlib
import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path
from typing import Optional

from . import operators

__all__ = ['activate', 'announce', 'find_operators', 'mmcv_folder']

NAME = 'mmcv._ext'


def mmcv_folder() -> Path:
    """Return the folder of the installed mmcv without importing it.

    Raises:
        FileNotFoundError: There is none.
    """
    spec = importlib.util.find_spec('mmcv')
    # A folder that pip left behind is a package too, but one without a file.
    if spec is None or not spec.origin:
        raise FileNotFoundError('mmcv: expected it to be installed, found none '
                                '(pip install mmcv-lite==2.1.0)')
    return Path(spec.origin).parent


def find_operators(folder: Path) -> Optional[Path]:
    """Return the file of ``mmcv._ext`` in mmcv's folder, or None; a compiled one comes first."""
    spec = importlib.machinery.PathFinder.find_spec(NAME, [str(folder)])
    return Path(spec.origin) if spec is not None and spec.origin else None


def announce() -> None:
    """Write one line to mmengine's log, in the first process of several."""
    if os.environ.get('RANK', '0') == '0':
        from mmengine.logging import print_log
        print_log('mmcv has no compiled operators: those of mmscheme, on torchvision, are used',
                  'current')


def activate() -> bool:
    """Use the operators in this process unless mmcv has some; call it before mmcv is imported.

    Returns:
        True if they are used.

    Raises:
        FileNotFoundError: There is no mmcv.
    """
    if NAME not in sys.modules and find_operators(mmcv_folder()) is None:
        sys.modules[NAME] = operators
        announce()
    return importlib.import_module(NAME) is operators
