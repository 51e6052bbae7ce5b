"""Data sets: generated scenes that need no download."""
from importlib.util import find_spec

if find_spec('mmseg'):  # whoever has mmdet alone uses the scenes as COCO
    from .scenes_dataset import ScenesDataset  # noqa: F401
