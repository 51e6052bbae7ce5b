"""Pictures and masks that a test writes, a file for each image."""
import os.path as osp
from typing import Any, Dict, Optional, Sequence

import cv2
import mmcv
from mmengine.hooks import Hook

from mmscheme.registry import HOOKS
from mmscheme.utils.output_files import tell_apart
from mmscheme.visualization.images import ImageReader, dataset_steps, viewable
from mmscheme.visualization.pictures import compose_label_maps

__all__ = ['MaskNamesHook', 'PictureHook', 'SegPictureHook']


class _NamedFilesHook(Hook):
    """Name a file after each tested image.

    Of images of one name, as folders may hold them, all but the first in the order of their
    paths get a number.
    """
    suffix: Optional[str] = '.png'

    def before_test(self, runner: Any) -> None:
        """Name the files of the whole data set, because each process tests only a part."""
        dataset = runner.test_dataloader.dataset
        self._names: Dict[str, str] = {}
        if hasattr(dataset, 'get_data_info'):
            infos = (dataset.get_data_info(i) for i in range(len(dataset)))
            paths = sorted({info['img_path'] for info in infos if info.get('img_path')})
            self._names = dict(zip(paths, tell_apart([self._own_name(p) for p in paths])))

    def _own_name(self, image_path: str) -> str:
        stem, suffix = osp.splitext(osp.basename(image_path))
        return stem + (self.suffix or (suffix if cv2.haveImageWriter(image_path) else '.png'))

    def name_of(self, sample: Any) -> str:
        """Return the name of the file; images in memory are numbered."""
        path = sample.get('img_path')
        if path is None:
            return f'{sample.sample_idx}.png'
        return self._names.get(path) or self._own_name(path)


class _Renaming:
    """Hand samples to an evaluator whose metrics name masks after them."""

    def __init__(self, evaluator: Any, hook: _NamedFilesHook) -> None:
        self._evaluator, self._hook = evaluator, hook

    def __getattr__(self, name: str) -> Any:
        return getattr(self._evaluator, name)

    def process(self, data_samples: Sequence[Any], data_batch: Optional[Any] = None) -> None:
        """Evaluate a batch."""
        renamed = [s.new(metainfo={**s.metainfo, 'img_path': osp.join(
            osp.dirname(s.img_path), self._hook.name_of(s))}) for s in data_samples]
        self._evaluator.process(data_samples=renamed, data_batch=data_batch)


@HOOKS.register_module()
class MaskNamesHook(_NamedFilesHook):
    """Give the masks of images of the same name different file names.

    They are called ``x.png`` and ``x_2.png`` where mmsegmentation keeps only the last of all
    images ``x``.
    """

    def before_test(self, runner: Any) -> None:
        """Name the masks."""
        super().before_test(runner)
        runner.test_loop.evaluator = _Renaming(runner.test_loop.evaluator, self)


class _PictureHook(_NamedFilesHook):
    """Write a picture for each tested image.

    Args:
        out_dir: Folder of the pictures; made when the first is written.
        **options: Arguments of the visualizer's method that draws.
    """

    def __init__(self, out_dir: str, **options: Any) -> None:
        self.out_dir = out_dir
        self.options = options

    def before_test(self, runner: Any) -> None:
        """Name the files, and read images as the data set does."""
        super().before_test(runner)
        self.read = ImageReader(dataset_steps(runner.test_dataloader.dataset))

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Optional[Any] = None,
                        outputs: Optional[Sequence[Any]] = None) -> None:
        """Draw the samples of a batch."""
        for i, sample in enumerate(outputs or ()):
            self.draw(runner, data_batch, i, sample, osp.join(self.out_dir, self.name_of(sample)))

    def draw(self, runner: Any, data_batch: Any, number: int, sample: Any, target: str) -> None:
        """Write the picture of a sample, the ``number``-th of the batch."""
        raise NotImplementedError


@HOOKS.register_module()
class PictureHook(_PictureHook):
    """Write pictures of tested images, drawn by mmdetection's or mmpretrain's visualizer.

    As their own hooks do, but no picture replaces that of another image of the same name.

    Args:
        out_dir: Folder of the pictures; made when the first is written.
        **options: Further arguments of ``add_datasample`` (mmdetection) or ``visualize_cls``
            (mmpretrain).
    """
    suffix = None

    def draw(self, runner: Any, data_batch: Any, number: int, sample: Any, target: str) -> None:
        """Draw an image as detectors read it, or as the classifier sees it."""
        if hasattr(runner.visualizer, 'visualize_cls'):
            # The pipeline has BGR, of which mmpretrain's hook makes pictures in wrong colours.
            image = viewable(data_batch['inputs'][number].permute(1, 2, 0).cpu().numpy())
            runner.visualizer.visualize_cls(image[..., ::-1], sample, out_file=target,
                                            **self.options)
        else:
            image = self.read(sample.img_path)[..., ::-1]
            runner.visualizer.add_datasample(osp.basename(target), image, sample, out_file=target,
                                             **self.options)


@HOOKS.register_module()
class SegPictureHook(_PictureHook):
    """Write image, ground truth and prediction side by side, with a legend.

    One PNG for each tested image, named like the image; of images of one name all but the
    first in the order of their paths get a number. Unlabelled positions stay black in the
    ground truth.

    Args:
        out_dir: Folder of the pictures; made when the first is written.
    """

    def __init__(self, out_dir: str) -> None:
        super().__init__(out_dir)

    def draw(self, runner: Any, data_batch: Any, number: int, sample: Any, target: str) -> None:
        """Draw a sample with the classes and colours of the data set."""
        # The visualizer knows them too, but in the first process alone.
        meta = getattr(runner.test_dataloader.dataset, 'metainfo', {})
        classes, palette = meta.get('classes'), meta.get('palette')
        if classes is None or palette is None:
            raise ValueError('pictures need the classes and the palette of the data set')
        labels = [sample.gt_sem_seg] if 'gt_sem_seg' in sample else []
        # Labels of segmenters with one channel are floats.
        maps = [m.data[0].long().cpu().numpy() for m in [*labels, sample.pred_sem_seg]]
        titles = ['ground truth'] * len(labels) + ['prediction']
        mmcv.imwrite(compose_label_maps(self.read(sample.img_path), list(zip(titles, maps)),
                                        classes, palette), target)
