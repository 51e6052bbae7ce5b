"""mmdet's inference after the neck, in a form that torch's exporters can follow.

Modules and settings are the detector's own; only mmdet's branches on the number of boxes, which
no graph has, are written another way.
"""
import math
from typing import Any, List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import nms, roi_align

__all__ = ['decode', 'detect', 'find_unsupported', 'has_masks', 'last_settings', 'make_anchors',
           'paste_masks', 'suppress']


def find_unsupported(model: nn.Module) -> Optional[str]:
    """Return what of a detector has no form for export, or None for whole detectors."""
    from mmdet.models import FCNMaskHead, RetinaHead, RPNHead, SingleRoIExtractor, StandardRoIHead
    from mmdet.models.roi_heads.bbox_heads import ConvFCBBoxHead
    from mmdet.models.task_modules import DeltaXYWHBBoxCoder
    head, regions = _dense_head(model), getattr(model, 'roi_head', None)
    if not isinstance(head, RetinaHead if regions is None else RPNHead):
        return f'the heads of {type(model).__name__}'
    stages: List[Any] = [head]
    if not head.use_sigmoid_cls or getattr(head.loss_cls, 'custom_cls_channels', False):
        return f'the scores of {type(head).__name__}'
    if regions is not None:
        if type(regions) is not StandardRoIHead or regions.with_shared_head:
            return f'the regions of {type(regions).__name__}'
        box = regions.bbox_head
        if not isinstance(box, ConvFCBBoxHead) or box.custom_activation or box.with_avg_pool:
            return f'the boxes of {type(box).__name__}'
        stages.append(box)
        extractors = [regions.bbox_roi_extractor]
        if regions.with_mask:
            if type(regions.mask_head) is not FCNMaskHead:
                return f'the masks of {type(regions.mask_head).__name__}'
            extractors.append(regions.mask_roi_extractor)
        for extractor in extractors:
            pools = [getattr(layer, 'pool_mode', None) for layer in extractor.roi_layers]
            if type(extractor) is not SingleRoIExtractor or set(pools) != {'avg'}:
                return f'the regions of {type(extractor).__name__}'
    for stage in stages:
        coder = stage.bbox_coder
        if type(coder) is not DeltaXYWHBBoxCoder or coder.add_ctr_clamp:
            return f'the boxes of {type(coder).__name__}'
    for settings in [head.test_cfg, last_settings(model)]:
        kind = settings.nms.get('type', 'nms')
        if kind != 'nms':
            return f'test_cfg.nms.type={kind!r}'
    return None


def _dense_head(model: Any) -> Any:
    return getattr(model, 'rpn_head' if hasattr(model, 'roi_head') else 'bbox_head', None)


def last_settings(model: Any) -> Any:
    """Return the settings (``test_cfg``) of the step that selects the detections."""
    return (model.roi_head if hasattr(model, 'roi_head') else model.bbox_head).test_cfg


def make_anchors(model: Any, features: Sequence[Tensor]) -> List[Tensor]:
    """Return the anchors ``(N, 4)`` of each level for maps of one size."""
    head = _dense_head(model)
    sizes = [logits.shape[2:] for logits in head(features)[0]]
    return head.prior_generator.grid_priors(sizes, device='cpu')


def decode(coder: Any, boxes: Tensor, deltas: Tensor, size: Tensor) -> Tensor:
    """Move boxes as mmdet's ``DeltaXYWHBBoxCoder.decode`` does.

    Args:
        coder: Of the head.
        boxes, deltas: ``(N, 4)``.
        size: Height and width at which the boxes are cut off.

    Returns:
        Boxes ``(N, 4)``: x1, y1, x2, y2.
    """
    deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
    most = abs(math.log(16 / 1000))  # the default of mmdet, which its heads leave alone
    sides = boxes[:, 2:] - boxes[:, :2]
    centre = (boxes[:, :2] + boxes[:, 2:]) * 0.5 + sides * deltas[:, :2]
    half = sides * deltas[:, 2:].clamp(-most, most).exp() * 0.5
    moved = torch.cat([centre - half, centre + half], 1)
    if coder.clip_border:
        moved = torch.minimum(moved.clamp(min=0), size.flip(0).repeat(2).to(moved))
    return moved


def suppress(boxes: Tensor, scores: Tensor, groups: Tensor, settings: Any) -> Tensor:
    """Return the indices that NMS within each group leaves, best first, as mmcv's ``batched_nms``.

    Args:
        boxes: ``(N, 4)``.
        scores: ``(N,)``.
        groups: ``(N,)``, labels or levels.
        settings: ``test_cfg`` of the head, with ``nms`` and ``max_per_img``.
    """
    if not settings.nms.get('class_agnostic', False):
        # The corner, because there may be no boxes.
        most = torch.cat([boxes.flatten(), boxes.new_zeros(1)]).max()
        boxes = boxes + (groups.to(boxes) * (most + 1))[:, None]
    kept = nms(boxes, scores, settings.nms.get('iou_threshold', 0.5))
    # By way of a fixed size, because torch.export wants to know the largest.
    kept = _fixed(kept, settings.max_per_img, -1)
    return kept[(kept >= 0).nonzero()[:, 0]]


def _fixed(values: Tensor, number: int, fill: int) -> Tensor:
    """Return so many rows, the missing ones filled with a number."""
    more = values.new_full((number, *values.shape[1:]), fill)
    return torch.cat([values, more]).narrow(0, 0, number)


def _candidates(head: Any, features: Sequence[Tensor], anchors: Sequence[Tensor], size: Tensor
                ) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return boxes, scores, labels and levels of the best anchors of a dense head."""
    found: List[List[Tensor]] = [[], [], [], []]
    classes, most = head.cls_out_channels, head.test_cfg.get('nms_pre', -1)
    for level, (logits, deltas, priors) in enumerate(zip(*head(features), anchors)):
        scores = logits.permute(0, 2, 3, 1).flatten().sigmoid()
        scores, index = scores.topk(min(most, len(scores)) if most > 0 else len(scores))
        anchor = torch.div(index, classes, rounding_mode='floor')
        deltas = deltas.permute(0, 2, 3, 1).reshape(-1, 4)[anchor]
        boxes = decode(head.bbox_coder, priors[anchor], deltas, size)
        for part, value in zip(found, (boxes, scores, index - anchor * classes,
                                       torch.full_like(index, level))):
            part.append(value)
    boxes, scores, labels, levels = (torch.cat(part) for part in found)
    return boxes, scores, labels, levels


def _large(boxes: Tensor, settings: Any) -> Tensor:
    """Return True for the boxes that are not too small."""
    least = settings.get('min_bbox_size', -1)
    sides = boxes[:, 2:] - boxes[:, :2]
    return (sides > least).all(1) if least >= 0 else torch.ones_like(boxes[:, 0]) > 0


def _dense_detections(head: Any, features: Sequence[Tensor], anchors: Sequence[Tensor],
                      size: Tensor, threshold: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    boxes, scores, labels, _ = _candidates(head, features, anchors, size)
    valid = ((scores > threshold) & _large(boxes, head.test_cfg)).nonzero()[:, 0]
    boxes, scores, labels = boxes[valid], scores[valid], labels[valid]
    kept = suppress(boxes, scores, labels, head.test_cfg)
    return boxes[kept], scores[kept], labels[kept]


def _proposals(head: Any, features: Sequence[Tensor], anchors: Sequence[Tensor], size: Tensor
               ) -> Tensor:
    boxes, scores, _, levels = _candidates(head, features, anchors, size)
    valid = _large(boxes, head.test_cfg).nonzero()[:, 0]
    boxes = boxes[valid]
    return boxes[suppress(boxes, scores[valid], levels[valid], head.test_cfg)]


def _pool(extractor: Any, features: Sequence[Tensor], boxes: Tensor) -> Tuple[Tensor, Tensor]:
    """Return the maps in the boxes, level by level, and the index of the box of each."""
    rois = F.pad(boxes, (1, 0))  # of image 0
    levels = extractor.map_roi_levels(rois, extractor.num_inputs)
    maps, indices = [], []
    for level, layer in enumerate(extractor.roi_layers):
        index = (levels == level).nonzero()[:, 0]
        indices.append(index)
        maps.append(roi_align(features[level], rois[index], layer.output_size, layer.spatial_scale,
                              layer.sampling_ratio, layer.aligned))
    return torch.cat(maps), torch.cat(indices)


def _region_detections(regions: Any, features: Sequence[Tensor], proposals: Tensor, size: Tensor,
                       threshold: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    head = regions.bbox_head
    maps, index = _pool(regions.bbox_roi_extractor, features, proposals)
    logits, deltas = head(maps)
    scores = logits.softmax(1)[:, :-1]
    region, labels = (scores > threshold).nonzero().unbind(1)
    scores = scores[region, labels]
    deltas = deltas.unflatten(1, (-1, 4))
    deltas = deltas[region, 0] if head.reg_class_agnostic else deltas[region, labels]
    boxes = decode(head.bbox_coder, proposals[index][region], deltas, size)
    kept = suppress(boxes, scores, labels, regions.test_cfg)
    return boxes[kept], scores[kept], labels[kept]


def _masks(regions: Any, features: Sequence[Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
    maps, index = _pool(regions.mask_roi_extractor, features, boxes)
    logits = regions.mask_head(maps)
    channel = torch.zeros_like(index) if regions.mask_head.class_agnostic else labels[index]
    rows = torch.arange(index.shape[0], device=index.device)
    masks = logits[rows, channel].sigmoid()
    return masks[torch.zeros_like(index).scatter(0, index, rows)]


def detect(model: Any, features: Sequence[Tensor], anchors: Sequence[Tensor], size: Tensor,
           threshold: Tensor) -> Tuple[Tensor, ...]:
    """Return the detections of one image.

    Args:
        model: A detector of which :func:`find_unsupported` finds nothing.
        features: Of its neck, ``(1, C, H, W)``.
        anchors: Of :func:`make_anchors`.
        size: Height and width of the picture.
        threshold: Lowest score.

    Returns:
        Boxes ``(N, 4)``, scores and labels ``(N,)``; ``N`` is ``max_per_img``, and what is
        missing has score 0 and label -1. With a mask head also the probabilities of the masks
        on a grid over each box, ``(M, h, w)`` for ``M`` boxes that are there.
    """
    if hasattr(model, 'roi_head'):
        proposals = _proposals(model.rpn_head, features, anchors, size)
        found = _region_detections(model.roi_head, features, proposals, size, threshold)
    else:
        found = _dense_detections(model.bbox_head, features, anchors, size, threshold)
    most = last_settings(model).max_per_img
    outputs = tuple(_fixed(values, most, fill) for values, fill in zip(found, (0, 0, -1)))
    if not has_masks(model):
        return outputs
    return (*outputs, _masks(model.roi_head, features, found[0], found[2]))


def has_masks(model: Any) -> bool:
    """Return True for a detector with a mask head."""
    return hasattr(model, 'roi_head') and bool(model.roi_head.with_mask)


def paste_masks(masks: Tensor, boxes: Tensor, size: Tuple[int, int], threshold: float) -> Tensor:
    """Return the masks of detections on their image, as mmdet's ``FCNMaskHead`` does.

    Args:
        masks: Probabilities ``(N, h, w)``.
        boxes: ``(N, 4)`` in pixels of the image.
        size: Height and width of the image.
        threshold: Lowest probability of an object.

    Returns:
        bool ``(N, height, width)``.
    """
    height, width = size
    pasted = torch.zeros(len(masks), height, width, dtype=torch.bool)
    for mask, box, image in zip(masks, boxes, pasted):
        x1, y1, x2, y2 = box
        left, top = (max(math.floor(v) - 1, 0) for v in (x1, y1))
        right, bottom = min(math.ceil(x2) + 1, width), min(math.ceil(y2) + 1, height)
        if x2 <= x1 or y2 <= y1 or right <= left or bottom <= top:
            continue
        x = (torch.arange(left, right) + 0.5 - x1) / (x2 - x1) * 2 - 1
        y = (torch.arange(top, bottom) + 0.5 - y1) / (y2 - y1) * 2 - 1
        grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], 2)
        values = F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
        image[top:bottom, left:right] = values >= threshold
    return pasted
