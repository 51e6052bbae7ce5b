"""Models as plain modules from a raw image to the result, for torch's exporters.

Input of all: ``image``, uint8, RGB, ``(B, 3, H, W)``; of models with other channels or types of
images what their pipeline gives. Colour order and normalisation of the model are inside.
"""
from copy import deepcopy
from typing import Any, Dict, List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .detectors import detect, find_unsupported, has_masks, make_anchors

__all__ = ['Graph', 'MatrixPool', 'build_graph', 'replace_adaptive_pooling', 'to_labels']


class Graph(nn.Module):
    """Base of the exported modules.

    Args:
        model: Model in evaluation mode; becomes part of the graph.
        channels, dtype: Channels and type of its images.

    Attributes:
        task: ``'classification'``, ``'segmentation'``, ``'detection'`` or ``'features'``.
        inputs, outputs: Names, and what they hold.
        stride: Of the windows of a segmenter that slides one; None for whole images.
    """
    task = ''
    stride: Optional[Tuple[int, int]] = None
    inputs: Dict[str, str] = dict(image='uint8 (B, 3, H, W), RGB')
    outputs: Dict[str, str] = {}

    def __init__(self, model: nn.Module, channels: int = 3, dtype: torch.dtype = torch.uint8
                 ) -> None:
        super().__init__()
        self.model, self.channels, self.dtype = model, channels, dtype
        self.inputs = dict(self.inputs, image=self.inputs['image'].replace(
            'uint8', str(dtype).removeprefix('torch.')))
        if channels != 3:
            self.inputs['image'] = self.inputs['image'].replace('3, H, W), RGB', f'{channels}, H, '
                                                                'W), as the pipeline gives it')
        preprocessor = model.data_preprocessor
        self.normalise = bool(getattr(preprocessor, '_enable_normalize', False))
        # Images are read as BGR; a model that converts sees RGB.
        self.rgb = channels != 3 or bool(getattr(preprocessor, '_channel_conversion', False)
                        or getattr(preprocessor, 'channel_conversion', False)
                        or getattr(preprocessor, 'to_rgb', False))
        if self.normalise:
            self.register_buffer('mean', preprocessor.mean.detach().clone().view(1, -1, 1, 1))
            self.register_buffer('std', preprocessor.std.detach().clone().view(1, -1, 1, 1))

    def preprocess(self, image: Tensor) -> Tensor:
        """Return the model's own input."""
        x = (image if self.rgb else image.flip(1)).float()
        return (x - self.mean) / self.std if self.normalise else x

    def example(self, shape: Tuple[int, int]) -> Tuple[Tensor, ...]:
        """Return inputs of the right kind, to trace with."""
        return (torch.zeros(1, self.channels, *shape, dtype=self.dtype), )


class ClassifierGraph(Graph):
    """Image to class scores."""
    task = 'classification'
    outputs = dict(scores='float32 (B, classes), sum 1')

    def forward(self, image: Tensor) -> Tensor:
        features = self.model.extract_feat(self.preprocess(image))
        return torch.softmax(self.model.head(features), 1)


def _sliding_window(settings: Optional[Dict[str, Any]]
                   ) -> Tuple[Optional[Tuple[int, int]], Optional[Tuple[int, int]]]:
    """Return size and stride of a segmenter's windows from its ``test_cfg``, or twice None."""
    if not settings or settings.get('mode') != 'slide':
        return None, None
    pairs = []
    for key in ('crop_size', 'stride'):
        pair = settings.get(key)
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(f'model.test_cfg.{key}: mode=slide needs (height, width), found '
                             f'{pair!r}')
        pairs.append((int(pair[0]), int(pair[1])))
    return pairs[0], pairs[1]


def to_labels(logits: Tensor, threshold: Optional[float]) -> Tensor:
    """Return the labels ``(B, H, W)`` of a segmenter's logits ``(B, C, H, W)``.

    Args:
        logits: One channel a class, or one channel whose sigmoid is the score of class 1.
        threshold: Score from which on a pixel of the latter is of class 1.
    """
    if logits.shape[1] > 1:
        return logits.argmax(1)
    return (logits[:, 0].sigmoid() > threshold).long()


class SegmenterGraph(Graph):
    """Image, or a window of it, to logits and labels at the size of the input."""
    task = 'segmentation'
    outputs = dict(logits='float32 (B, classes, H, W); resize these for another size',
                   labels='int64 (B, H, W)')

    def __init__(self, model: nn.Module, shape: Tuple[int, int], *images: Any) -> None:
        super().__init__(model, *images)
        window, self.stride = _sliding_window(model.test_cfg)
        if window and window != shape:
            raise ValueError(f'--shape: expected model.test_cfg.crop_size={window}, the windows '
                             f'of mode=slide, found {shape}')
        head = model.decode_head
        self.threshold = head.threshold if head.out_channels == 1 else None

    def forward(self, image: Tensor) -> Tuple[Tensor, Tensor]:
        features = self.model.extract_feat(self.preprocess(image))
        logits = F.interpolate(self.model.decode_head(features), image.shape[2:],
                               mode='bilinear', align_corners=self.model.align_corners)
        return logits, to_labels(logits, self.threshold)


class DetectorGraph(Graph):
    """Image to boxes after NMS, and their masks where the detector has some."""
    task = 'detection'
    inputs = dict(Graph.inputs, image='uint8 (1, 3, H, W), RGB; the picture in the upper left '
                  'corner, the rest is ignored',
                  size='int64 (2,): height and width of the picture in it',
                  score_threshold='float32 (): lowest score of a box')
    outputs = dict(boxes='float32 (N, 4): x1, y1, x2, y2 in pixels of the input',
                   scores='float32 (N,), falling; 0 where there is no object',
                   labels='int64 (N,); -1 where there is no object')

    def __init__(self, model: nn.Module, shape: Tuple[int, int], *images: Any) -> None:
        super().__init__(model, *images)
        if has_masks(model):
            self.outputs = dict(self.outputs, masks='float32 (M, h, w): probability of the object '
                                'on a grid over its box, for the M rows that have an object')
        with torch.no_grad():
            maps = model.extract_feat(torch.zeros(1, self.channels, *shape))
        anchors = make_anchors(model, maps)
        self.levels = len(anchors)
        for i, boxes in enumerate(anchors):
            self.register_buffer(f'anchors{i}', boxes)

    def example(self, shape: Tuple[int, int]) -> Tuple[Tensor, ...]:
        return (*super().example(shape), torch.tensor(shape), torch.tensor(0.05))

    def forward(self, image: Tensor, size: Tensor, score_threshold: Tensor) -> Tuple[Tensor, ...]:
        rows = torch.arange(image.shape[2], device=image.device) < size[0]
        columns = torch.arange(image.shape[3], device=image.device) < size[1]
        # mmdet pads after normalising, with zeros.
        x = self.preprocess(image) * (rows[:, None] & columns[None]).float()
        anchors = [getattr(self, f'anchors{i}') for i in range(self.levels)]
        return detect(self.model, self.model.extract_feat(x), anchors, size, score_threshold)


class FeatureGraph(Graph):
    """Image to the maps of backbone and neck."""
    task = 'features'

    def __init__(self, model: nn.Module, shape: Tuple[int, int], *images: Any) -> None:
        super().__init__(model, *images)
        with torch.no_grad():
            maps = model.extract_feat(torch.zeros(1, self.channels, *shape))
        self.outputs = {f'p{i}': f'float32 (B, {m.shape[1]}, H / {shape[0] // m.shape[2]}, '
                        f'W / {shape[0] // m.shape[2]})' for i, m in enumerate(maps)}

    def forward(self, image: Tensor) -> Tuple[Tensor, ...]:
        return tuple(self.model.extract_feat(self.preprocess(image)))


class MatrixPool(nn.Module):
    """Adaptive average pooling of a map of one size as two products with constant matrices.

    Exactly ``nn.AdaptiveAvgPool2d``, also where the bins overlap because their number does
    not divide the size; exporters refuse those.

    Args:
        size: Height and width of the input.
        bins: Height and width of the output.
    """

    def __init__(self, size: Tuple[int, int], bins: Tuple[int, int]) -> None:
        super().__init__()
        for name, n, b in zip(('rows', 'columns'), size, bins):
            matrix = torch.zeros(b, n)
            for i in range(b):
                start, end = i * n // b, -(-(i + 1) * n // b)
                matrix[i, start:end] = 1 / (end - start)
            self.register_buffer(name, matrix)

    def forward(self, x: Tensor) -> Tensor:
        return self.rows @ x @ self.columns.transpose(0, 1)


def replace_adaptive_pooling(model: nn.Module, graph: nn.Module, example: Tuple[Tensor, ...]
                             ) -> List[str]:
    """Exchange the adaptive poolings of a model for :class:`MatrixPool`.

    Global pooling, to one bin, stays as it is: it works at any size.

    Args:
        model: Changed in place.
        graph: What runs the model.
        example: Inputs of the size that the model will have.

    Returns:
        The names of the modules that were exchanged.
    """
    pools = {n: m for n, m in model.named_modules() if isinstance(m, nn.AdaptiveAvgPool2d)
             and m.output_size not in (1, (1, 1))}
    shapes: Dict[nn.Module, Tuple[int, int]] = {}
    handles = [pool.register_forward_pre_hook(
        lambda m, args: shapes.update({m: tuple(args[0].shape[2:])})) for pool in pools.values()]
    with torch.no_grad():
        graph(*example)
    for handle in handles:
        handle.remove()
    used = [name for name, pool in pools.items() if pool in shapes]
    for name in used:
        size, wanted = shapes[pools[name]], pools[name].output_size
        pair = (wanted, wanted) if isinstance(wanted, int) else tuple(wanted)
        bins = (pair[0] or size[0], pair[1] or size[1])  # None keeps the size
        _exchange(model, name, MatrixPool(size, bins))
    return used


def _exchange(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition('.')
    setattr(model.get_submodule(parent), child, module)


class _WholeUpsample(nn.Module):
    """Upsampling by a whole number, whose output size is a whole multiple in a graph too.

    mmseg computes it with floats, which a tracer takes for a constant.
    """

    def __init__(self, factor: int, mode: str, align_corners: Optional[bool]) -> None:
        super().__init__()
        self.factor, self.mode, self.align_corners = factor, mode, align_corners

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[2] * self.factor, x.shape[3] * self.factor)
        return F.interpolate(x, size, mode=self.mode, align_corners=self.align_corners)


def _replace_upsampling(model: nn.Module) -> None:
    """Exchange mmseg's upsampling by whole numbers."""
    from mmseg.models.utils import Upsample
    for name, module in list(model.named_modules()):
        factor = getattr(module, 'scale_factor', None)
        if isinstance(module, Upsample) and not module.size and isinstance(
                factor, float) and factor.is_integer():
            _exchange(model, name, _WholeUpsample(int(factor), module.mode, module.align_corners))


def build_graph(model: nn.Module, scope: str, shape: Tuple[int, int], channels: int = 3,
                dtype: torch.dtype = torch.uint8) -> Tuple[Graph, Optional[str]]:
    """Build the module to export for a model.

    Args:
        model: Model in evaluation mode; copied.
        scope: ``default_scope`` of its config.
        shape: Height and width of the input.
        channels, dtype: Channels and type of the images.

    Returns:
        The graph, and what is not in it, or None where it is the whole model.

    Raises:
        ValueError: There is no graph for this task or head.
    """
    model = deepcopy(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if scope == 'mmpretrain':
        return ClassifierGraph(model, channels, dtype).eval(), None
    if scope == 'mmseg':
        from mmseg.models.decode_heads.decode_head import BaseDecodeHead
        if not isinstance(model.decode_head, BaseDecodeHead):
            raise ValueError(f'model.decode_head: {type(model.decode_head).__name__} cannot be '
                             'exported, expected a head that gives a map of logits')
        _replace_upsampling(model)
        return SegmenterGraph(model, shape, channels, dtype).eval(), None
    if scope != 'mmdet':
        raise ValueError(f"default_scope: expected 'mmdet', 'mmpretrain' or 'mmseg', "
                         f'found {scope!r}')
    unsupported = find_unsupported(model)
    if unsupported is None:
        return DetectorGraph(model, shape, channels, dtype).eval(), None
    return FeatureGraph(model, shape, channels, dtype).eval(), (
        f'{type(model).__name__} is exported as backbone and neck alone: there is no form for '
        f'{unsupported}. Whole detectors are RetinaNet, Faster R-CNN and Mask R-CNN')
