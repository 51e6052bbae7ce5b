"""All names of ``mmcv._ext``: what ``mmcv.ops`` gets where mmcv has no compiled operators."""
import functools
from typing import Any, Callable, NoReturn

import torch
from torch import Tensor

from . import boxes, deform_attn, deform_conv, focal_loss, maps, roi, sync_bn

__all__ = ['PRESENT']

_MODULES = boxes, deform_attn, deform_conv, focal_loss, maps, roi, sync_bn
PRESENT = sorted(name for module in _MODULES for name in module.__all__)


def _without_autocast(function: Callable) -> Callable:
    """Return the function with types of its own: autocast would change some of them."""

    @functools.wraps(function)
    def operator(*args: Any, **kwargs: Any) -> Any:
        first = args[0] if args else next(iter(kwargs.values()))
        assert isinstance(first, Tensor)
        with torch.autocast(first.device.type, enabled=False):
            return function(*args, **kwargs)

    return operator


def __getattr__(name: str) -> Callable:
    """Return a function that refuses, for what else mmcv asks for when it is imported.

    These are operators of rotated boxes, points, text, video and generative models.
    """
    if name.startswith('_'):
        raise AttributeError(name)

    def operator(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(
            f'{name}: this operator needs compiled mmcv, found mmcv-lite with the operators of '
            'mmscheme (pip uninstall mmcv-lite, then pip install mmcv==2.1.0 builds it; in a '
            'clone of mmscheme: python3 tools/dev.py --with-mmcv setup)')

    return operator


def get_compiler_version() -> str:
    """Return that there is none, for mmcv's list of the environment."""
    return 'none (operators of mmscheme on torchvision)'


def get_compiling_cuda_version() -> str:
    """Return that there is none, for mmcv's list of the environment."""
    return 'none (operators of mmscheme on torchvision)'


globals().update({name: _without_autocast(getattr(module, name))
                  for module in _MODULES for name in module.__all__})
