"""Data sets: generated scenes that need no download, and any data set that is guarded."""
from importlib.util import find_spec

from .guarded import GuardedDataset  # noqa: F401

# Whoever has only one of the two frameworks uses the scenes with that one.
if find_spec('mmseg'):
    from .scenes_dataset import ScenesDataset  # noqa: F401
if find_spec('mmdet'):
    from .scenes_instance_dataset import ScenesInstanceDataset  # noqa: F401
