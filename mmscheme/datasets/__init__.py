"""Data sets: generated scenes that need no download."""
from importlib.util import find_spec

# Whoever has only one of the two frameworks uses the scenes with that one.
if find_spec('mmseg'):
    from .scenes_dataset import ScenesDataset  # noqa: F401
if find_spec('mmdet'):
    from .scenes_instance_dataset import ScenesInstanceDataset  # noqa: F401
