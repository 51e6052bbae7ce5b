"""Pictures of a segmenter's predictions beside the ground truth."""
import os.path as osp
from typing import Any, List, Optional, Sequence, Tuple

import cv2
import mmcv
import numpy as np
from mmengine.hooks import Hook
from numpy.typing import NDArray

from mmscheme.registry import HOOKS

__all__ = ['SegPictureHook']

_FONT, _TEXT_HEIGHT, _MIN_HEIGHT = cv2.FONT_HERSHEY_SIMPLEX, 22, 256
_IGNORED = 255


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
            picture = _compose(mmcv.imread(sample.img_path), list(zip(titles, maps)), classes,
                               palette)
            name = osp.splitext(osp.basename(sample.img_path))[0]
            mmcv.imwrite(picture, osp.join(self.out_dir, f'{name}.png'))


def _compose(image: NDArray[Any], maps: List[Tuple[str, NDArray[Any]]], classes: Sequence[str],
             palette: Sequence[Sequence[int]]) -> NDArray[Any]:
    """The panels in a row under their titles, over a legend of the classes they show."""
    colours = np.zeros((256, 3), np.uint8)
    colours[:len(palette)] = np.asarray(palette, np.uint8)[:, ::-1]
    scale = max(1, -(-_MIN_HEIGHT // image.shape[0]))
    size = (image.shape[1] * scale, image.shape[0] * scale)
    panels = [_titled('image', cv2.resize(image, size, interpolation=cv2.INTER_NEAREST))]
    for title, labels in maps:
        panel = cv2.addWeighted(image, 0.25, colours[labels], 0.75, 0)
        panel[labels == _IGNORED] = 0
        panels.append(_titled(title, cv2.resize(panel, size, interpolation=cv2.INTER_NEAREST)))
    row = np.hstack(panels)
    shown = np.unique(np.concatenate([labels.ravel() for _, labels in maps]))
    legend = _legend([(classes[i], colours[i]) for i in shown if i < len(classes)], row.shape[1])
    return np.vstack([row, legend])


def _titled(title: str, panel: NDArray[Any]) -> NDArray[Any]:
    strip = np.full((_TEXT_HEIGHT, panel.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, title, (6, 16), _FONT, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([strip, panel])


def _legend(entries: List[Tuple[str, NDArray[Any]]], width: int) -> NDArray[Any]:
    rows = [np.full((_TEXT_HEIGHT, width, 3), 255, np.uint8)]
    x = 6
    for name, colour in entries:
        advance = 28 + cv2.getTextSize(name, _FONT, 0.5, 1)[0][0]
        if x + advance > width and x > 6:
            rows.append(np.full_like(rows[0], 255))
            x = 6
        cv2.rectangle(rows[-1], (x, 5), (x + 12, 17), [int(c) for c in colour], -1)
        cv2.putText(rows[-1], name, (x + 17, 16), _FONT, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        x += advance
    return np.vstack(rows)
