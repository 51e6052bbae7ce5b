"""The operators in mmcv's wrappers, whatever mmcv is installed."""
import sys

import mmcv.ops
import pytest

from mmscheme.mmcv_ext import operators

INSTALLED = sys.modules['mmcv._ext']
WRAPPERS = [module for name, module in sorted(sys.modules.items())
            if name.startswith('mmcv.ops.') and hasattr(module, 'ext_module')]


@pytest.fixture
def ours(monkeypatch):
    """mmcv.ops calls the operators of mmscheme."""
    for module in WRAPPERS:
        monkeypatch.setattr(module, 'ext_module', operators)
    return mmcv.ops


@pytest.fixture
def compiled():
    """mmcv.ops calls its own compiled operators; skipped where there are none."""
    if INSTALLED is operators:
        pytest.skip('mmcv has no compiled operators here')
    return mmcv.ops
