"""Random input with a random ground truth, for a model of any task."""
import inspect
from typing import Any, Dict, List, Tuple

import numpy as np
import torch
from mmengine import Config
from mmengine.registry import MODELS
from mmengine.structures import InstanceData, PixelData
from numpy.typing import NDArray

from mmscheme.utils.config_query import (
    find_class,
    inference_pipeline,
    inner_model,
    iter_datasets,
    scope_of,
    step_name,
    walk,
)

__all__ = ['find_preprocessor', 'image_dtype', 'input_channels', 'input_shape', 'num_classes',
           'random_batch', 'to_input']

_OBJECTS = 3


def input_shape(cfg: Config) -> Tuple[int, int]:
    """Return height and width of what a config's model usually gets.

    Args:
        cfg: A config of mmsegmentation (its crop), of mmdetection (the size that its
            test images are resized to, with their padding) or of mmpretrain (the size of
            its test images, or else of its training images).

    Returns:
        Height and width in pixels.

    Raises:
        ValueError: The config does not say.
    """
    preprocessor = find_preprocessor(cfg)
    if scope_of(cfg) == 'mmseg' and preprocessor.get('size'):
        height, width = preprocessor['size']
        return height, width
    for split in ('test', 'train'):
        size = None
        for step in _pipeline(cfg, split):
            name = step_name(step)
            if name.endswith('Crop') and step.get('crop_size', step.get('scale')):
                size = _pair(step.get('crop_size', step.get('scale')))
            elif name.endswith('Resize') and step.get('scale'):
                width, height = _pair(step['scale'])
                if step.get('keep_ratio'):
                    width, height = max(width, height), min(width, height)
                size = height, width
        if size:
            divisor = preprocessor.get('pad_size_divisor') or 1
            height, width = (-(-side // divisor) * divisor for side in size)
            return height, width
    raise ValueError('the config does not state the size of its input; give it with --shape')


def _pair(size: Any) -> Tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def find_preprocessor(cfg: Config) -> Dict[str, Any]:
    """Return the config's ``data_preprocessor``, which may stand beside its model."""
    return inner_model(cfg.model).get('data_preprocessor') or cfg.get('data_preprocessor') or {}


def input_channels(cfg: Config) -> int:
    """Return the channels of the images that a config's model takes.

    They are what the backbone is told or has as its default, or else what the preprocessor has
    means for; 3 where nothing says.
    """
    for _, node in walk(inner_model(cfg.model).get('backbone')):
        cls = find_class(MODELS, node['type']) if 'type' in node else None
        arguments = inspect.signature(cls).parameters if inspect.isclass(cls) else {}
        for key in ('in_channels', 'in_chans'):
            told = node.get(key, getattr(arguments.get(key), 'default', None))
            if isinstance(told, int):
                return told
    return len(find_preprocessor(cfg).get('mean') or '') or 3


def image_dtype(cfg: Config) -> torch.dtype:
    """Return the type of the images that a config's pipeline gives: float32 where in doubt."""
    loaders = [step for step in inference_pipeline(cfg) if step_name(step) == 'LoadImageFromFile']
    pixels = loaders and not loaders[0].get('to_float32') and (
        'unchanged' not in loaders[0].get('color_type', 'color'))
    return torch.uint8 if pixels else torch.float32


def to_input(cfg: Config, picture: NDArray[Any]) -> torch.Tensor:
    """Return a picture as a config's pipeline would give it.

    Args:
        cfg: The config.
        picture: ``(H, W, 3)`` uint8, BGR; its channels are repeated or left out.

    Returns:
        ``(C, H, W)``.
    """
    channels = input_channels(cfg)
    image = np.tile(picture, -(-channels // 3))[..., :channels]
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).to(image_dtype(cfg))


def _pipeline(cfg: Config, split: str) -> List[Dict[str, Any]]:
    """Return the steps of the first data set of a split."""
    for dataset in iter_datasets(cfg, (split, )):
        if dataset.get('pipeline'):
            return dataset['pipeline']
    return []


def num_classes(model: Dict[str, Any]) -> int:
    """Return the smallest ``num_classes`` of all parts of a model's config, or 0.

    ``num_things_classes`` of mmdetection's panoptic heads counts as such.
    """
    found = [node[k] for _, node in walk(model)
             for k in ('num_classes', 'num_things_classes') if isinstance(node.get(k), int)]
    return min((n for n in found if n > 0), default=0)


def random_batch(cfg: Config, shape: Tuple[int, int], batch_size: int = 1) -> Dict[str, Any]:
    """Return images and labels of noise, as a data loader would give them.

    Args:
        cfg: A config of mmsegmentation, mmdetection or mmpretrain.
        shape: Height and width of the images in pixels.
        batch_size: Number of images.

    Returns:
        ``inputs``: uint8 tensors ``(C, H, W)``; ``data_samples`` with ground truth.

    Raises:
        ValueError: The config's task is another.
    """
    makers = dict(mmseg=_seg_sample, mmdet=_det_sample, mmpretrain=_cls_sample)
    scope = scope_of(cfg)
    if scope not in makers:
        raise ValueError(f'default_scope: expected one of {sorted(makers)}, found {scope!r}')
    rng = np.random.default_rng(0)
    classes = max(1, num_classes(cfg.model))
    samples = [makers[scope](rng, shape, classes, cfg) for _ in range(batch_size)]
    channels = input_channels(cfg)
    inputs = [torch.from_numpy(rng.integers(0, 256, (channels, *shape), np.uint8))
              for _ in range(batch_size)]
    return dict(inputs=inputs, data_samples=samples)


def _label_map(rng: np.random.Generator, shape: Tuple[int, int], classes: int) -> torch.Tensor:
    labels = torch.from_numpy(rng.integers(0, classes, (1, *shape)))
    labels[:, :3] = 255
    return labels


def _seg_sample(rng: np.random.Generator, shape: Tuple[int, int], classes: int, cfg: Config
                ) -> Any:
    from mmseg.structures import SegDataSample
    return SegDataSample(gt_sem_seg=PixelData(data=_label_map(rng, shape, classes)),
                         metainfo=dict(img_shape=shape, ori_shape=shape, pad_shape=shape))


def _det_sample(rng: np.random.Generator, shape: Tuple[int, int], classes: int, cfg: Config
                ) -> Any:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    height, width = shape
    masks = np.zeros((_OBJECTS, height, width), np.uint8)
    boxes = []
    for mask in masks:
        x, y = rng.integers(0, (width + 1) // 2), rng.integers(0, (height + 1) // 2)
        w, h = (rng.integers(max(1, side // 4), side // 2 + 1) if side > 1 else 1
                for side in (width, height))
        mask[y:y + h, x:x + w] = 1
        boxes.append([x, y, x + w, y + h])
    truth = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32),
        labels=torch.from_numpy(rng.integers(0, classes, _OBJECTS)))
    meta = dict(img_id=0, img_shape=shape, ori_shape=shape, pad_shape=shape,
                batch_input_shape=shape, scale_factor=(1., 1.))
    sample = DetDataSample(gt_instances=truth, metainfo=meta)
    # What the data set of this config would load; some models refuse more.
    pipeline = _pipeline(cfg, 'train')
    if not pipeline or _loads(pipeline, 'with_mask'):
        truth.masks = BitmapMasks(masks, height, width)
    if _loads(pipeline, 'with_seg'):
        sample.gt_sem_seg = PixelData(sem_seg=_label_map(rng, shape, classes))
    return sample


def _loads(pipeline: List[Dict[str, Any]], what: str) -> bool:
    # mmdet's panoptic annotations come with masks and maps unless told otherwise.
    return any(step.get(what, 'Panoptic' in step_name(step)) for step in pipeline)


def _cls_sample(rng: np.random.Generator, shape: Tuple[int, int], classes: int, cfg: Config
                ) -> Any:
    from mmpretrain.structures import DataSample
    sample = DataSample(metainfo=dict(img_shape=shape, ori_shape=shape))
    return sample.set_gt_label(int(rng.integers(0, classes)))
