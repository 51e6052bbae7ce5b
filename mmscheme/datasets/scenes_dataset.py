"""The generated scenes as a data set of mmsegmentation."""
from typing import Any

from mmseg.datasets import BaseSegDataset

from mmscheme.registry import DATASETS

from .scenes import CLASSES, PALETTE

__all__ = ['ScenesDataset']


@DATASETS.register_module()
class ScenesDataset(BaseSegDataset):
    """Read generated scenes with their own class ids, for mmsegmentation."""

    METAINFO = dict(classes=CLASSES, palette=[list(colour) for colour in PALETTE])

    def __init__(self, img_suffix: str = '.jpg', seg_map_suffix: str = '.png',
                 reduce_zero_label: bool = True, **kwargs: Any) -> None:
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix,
                         reduce_zero_label=reduce_zero_label, **kwargs)
