"""The countable objects of the generated scenes as a data set of mmdetection."""
from mmdet.datasets import CocoDataset

from mmscheme.registry import DATASETS

from .scenes import PALETTE, THINGS

__all__ = ['ScenesInstanceDataset']


@DATASETS.register_module()
class ScenesInstanceDataset(CocoDataset):
    """The COCO layout of :func:`mmscheme.datasets.scenes.write_scenes`."""

    METAINFO = dict(classes=tuple(THINGS), palette=[PALETTE[i] for i in THINGS.values()])
