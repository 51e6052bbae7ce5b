"""Random input with a random ground truth, for a model of any task."""
from typing import Any, Dict, List, Tuple

import numpy as np
import torch
from mmengine import Config
from mmengine.structures import InstanceData, PixelData

__all__ = ['input_shape', 'num_classes', 'random_batch']

_OBJECTS = 3


def input_shape(cfg: Config) -> Tuple[int, int]:
    """Height and width of what a config's model usually gets.

    Args:
        cfg: A config of mmsegmentation (its crop), of mmdetection (the size that its
            test images are resized to, with their padding) or of mmpretrain (its crop).

    Returns:
        Height and width in pixels; 224x224 where the config does not say.
    """
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    if cfg.get('default_scope') == 'mmdet':
        for step in _pipeline(cfg, 'test'):
            if str(step['type']).endswith('Resize') and 'scale' in step:
                width, height = sorted(step['scale'], reverse=True)
                divisor = preprocessor.get('pad_size_divisor') or 1
                return -(-height // divisor) * divisor, -(-width // divisor) * divisor
    if preprocessor.get('size'):
        height, width = preprocessor['size']
        return height, width
    for step in _pipeline(cfg, 'test'):
        if str(step['type']).endswith('Crop'):
            size = step['crop_size']
            return (size, size) if isinstance(size, int) else tuple(size)
    return 224, 224


def _pipeline(cfg: Config, split: str) -> List[Dict[str, Any]]:
    dataset = (cfg.get(f'{split}_dataloader') or {}).get('dataset') or {}
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset.get('pipeline') or []


def num_classes(node: Any) -> int:
    """The smallest ``num_classes`` of all parts of a model's config; 0 when none says one."""
    found: List[int] = []
    if isinstance(node, dict):
        found = [num_classes(child) for child in node.values()]
        if isinstance(node.get('num_classes'), int):
            found.append(node['num_classes'])
    elif isinstance(node, (list, tuple)):
        found = [num_classes(child) for child in node]
    return min((n for n in found if n > 0), default=0)


def random_batch(cfg: Config, shape: Tuple[int, int], batch_size: int = 1,
                 seed: int = 0) -> Dict[str, Any]:
    """Images of noise with labels of noise, as a data loader would give them.

    Args:
        cfg: A config whose ``default_scope`` is ``mmseg``, ``mmdet`` or ``mmpretrain``.
        shape: Height and width of the images in pixels.
        batch_size: Number of images.
        seed: Of the random numbers.

    Returns:
        ``inputs``: uint8 tensors ``(3, H, W)``; ``data_samples`` with ground truth.

    Raises:
        ValueError: The config's task is another.
    """
    makers = dict(mmseg=_seg_sample, mmdet=_det_sample, mmpretrain=_cls_sample)
    scope = cfg.get('default_scope')
    if scope not in makers:
        raise ValueError(f'default_scope: expected one of {sorted(makers)}, found {scope!r}')
    rng = np.random.default_rng(seed)
    classes = num_classes(cfg.model)
    samples = [makers[scope](rng, shape, classes) for _ in range(batch_size)]
    inputs = [torch.from_numpy(rng.integers(0, 256, (3, *shape), np.uint8))
              for _ in range(batch_size)]
    return dict(inputs=inputs, data_samples=samples)


def _seg_sample(rng: np.random.Generator, shape: Tuple[int, int], classes: int) -> Any:
    from mmseg.structures import SegDataSample
    labels = torch.from_numpy(rng.integers(0, classes, (1, *shape)))
    labels[:, :3] = 255
    return SegDataSample(gt_sem_seg=PixelData(data=labels),
                         metainfo=dict(img_shape=shape, ori_shape=shape, pad_shape=shape))


def _det_sample(rng: np.random.Generator, shape: Tuple[int, int], classes: int) -> Any:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    height, width = shape
    masks = np.zeros((_OBJECTS, height, width), np.uint8)
    boxes = []
    for mask in masks:
        x, y = rng.integers(0, width // 2), rng.integers(0, height // 2)
        w, h = rng.integers(width // 4, width // 2), rng.integers(height // 4, height // 2)
        mask[y:y + h, x:x + w] = 1
        boxes.append([x, y, x + w, y + h])
    truth = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32),
        labels=torch.from_numpy(rng.integers(0, classes, _OBJECTS)),
        masks=BitmapMasks(masks, height, width))
    meta = dict(img_id=0, img_shape=shape, ori_shape=shape, pad_shape=shape,
                batch_input_shape=shape, scale_factor=(1., 1.))
    return DetDataSample(gt_instances=truth, metainfo=meta)


def _cls_sample(rng: np.random.Generator, shape: Tuple[int, int], classes: int) -> Any:
    from mmpretrain.structures import DataSample
    sample = DataSample(metainfo=dict(img_shape=shape, ori_shape=shape))
    return sample.set_gt_label(int(rng.integers(0, max(1, classes))))
