"""The countable objects of the generated scenes as a data set of mmdetection."""
from mmdet.datasets import CocoDataset

from mmscheme.registry import DATASETS

from .scenes import PALETTE, THINGS

__all__ = ['ScenesInstanceDataset']


@DATASETS.register_module()
class ScenesInstanceDataset(CocoDataset):
    """Read the countable objects of generated scenes, for mmdetection."""

    METAINFO = dict(classes=tuple(THINGS), palette=[PALETTE[i] for i in THINGS.values()])
