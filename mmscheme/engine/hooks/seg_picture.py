"""Pictures of a segmenter's predictions beside the ground truth."""
import os.path as osp
from typing import Any, Optional, Sequence

import mmcv
from mmengine.hooks import Hook

from mmscheme.pictures import compose_label_maps
from mmscheme.registry import HOOKS

__all__ = ['SegPictureHook']


@HOOKS.register_module()
class SegPictureHook(Hook):
    """Writes image, ground truth and prediction side by side, with a legend.

    One PNG for each tested image, named like the image. Unlabelled positions stay
    black in the ground truth.

    Args:
        out_dir: Folder of the pictures; made when the first is written.
    """

    def __init__(self, out_dir: str) -> None:
        self.out_dir = out_dir

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Optional[Any] = None,
                        outputs: Optional[Sequence[Any]] = None) -> None:
        """Draws the samples of a batch."""
        meta = runner.visualizer.dataset_meta or {}
        classes, palette = meta.get('classes'), meta.get('palette')
        if classes is None or palette is None:
            raise ValueError('pictures need the classes and the palette of the data set')
        for sample in outputs or ():
            labels = [sample.gt_sem_seg] if 'gt_sem_seg' in sample else []
            maps = [m.data.squeeze().cpu().numpy() for m in [*labels, sample.pred_sem_seg]]
            titles = ['ground truth'] * len(labels) + ['prediction']
            picture = compose_label_maps(mmcv.imread(sample.img_path), list(zip(titles, maps)),
                                         classes, palette)
            name = osp.splitext(osp.basename(sample.img_path))[0]
            mmcv.imwrite(picture, osp.join(self.out_dir, f'{name}.png'))
