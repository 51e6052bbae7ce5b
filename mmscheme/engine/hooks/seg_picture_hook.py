"""Pictures of a segmenter's predictions beside the ground truth."""
import os.path as osp
from typing import Any, Dict, Optional, Sequence

import mmcv
from mmengine.hooks import Hook

from mmscheme.registry import HOOKS
from mmscheme.utils.output_files import tell_apart
from mmscheme.visualization.pictures import compose_label_maps

__all__ = ['SegPictureHook']


@HOOKS.register_module()
class SegPictureHook(Hook):
    """Write image, ground truth and prediction side by side, with a legend.

    One PNG for each tested image, named like the image; of images of one name, as folders
    may hold them, all but the first in the order of their paths get a number. Unlabelled
    positions stay black in the ground truth.

    Args:
        out_dir: Folder of the pictures; made when the first is written.
    """

    def __init__(self, out_dir: str) -> None:
        self.out_dir = out_dir
        self._names: Dict[str, str] = {}

    def before_test(self, runner: Any) -> None:
        """Name the pictures of the whole data set, because each process tests only a part."""
        dataset = runner.test_dataloader.dataset
        if hasattr(dataset, 'get_data_info'):
            infos = (dataset.get_data_info(i) for i in range(len(dataset)))
            paths = sorted({info['img_path'] for info in infos if 'img_path' in info})
            self._names = dict(zip(paths, tell_apart([_name(path) for path in paths])))

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Optional[Any] = None,
                        outputs: Optional[Sequence[Any]] = None) -> None:
        """Draw the samples of a batch."""
        # The visualizer knows them too, but in the first process alone.
        meta = getattr(runner.test_dataloader.dataset, 'metainfo', {})
        classes, palette = meta.get('classes'), meta.get('palette')
        if classes is None or palette is None:
            raise ValueError('pictures need the classes and the palette of the data set')
        for sample in outputs or ():
            labels = [sample.gt_sem_seg] if 'gt_sem_seg' in sample else []
            maps = [m.data.squeeze().cpu().numpy() for m in [*labels, sample.pred_sem_seg]]
            titles = ['ground truth'] * len(labels) + ['prediction']
            picture = compose_label_maps(mmcv.imread(sample.img_path), list(zip(titles, maps)),
                                         classes, palette)
            name = self._names.get(sample.img_path) or _name(sample.img_path)
            mmcv.imwrite(picture, osp.join(self.out_dir, name))


def _name(image_path: str) -> str:
    return osp.splitext(osp.basename(image_path))[0] + '.png'
