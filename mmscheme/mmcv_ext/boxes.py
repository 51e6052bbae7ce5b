"""Overlaps and suppression of boxes."""
from typing import List

import numpy as np
import torch
import torchvision  # noqa: F401 - brings torch.ops.torchvision
from torch import Tensor

__all__ = ['bbox_overlaps', 'nms', 'nms_match', 'softnms']


def _single(number: float) -> float:
    # mmcv compares with a C float: 0.3 as a double would suppress an IoU of exactly 0.3f.
    return torch.tensor(number, dtype=torch.float32).item()


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Return the indices of the boxes to keep, by falling score.

    Args:
        boxes: ``(N, 4)`` corners.
        scores: ``(N, )``.
        iou_threshold: A box whose IoU with a better one is above it is dropped.
        offset: 1 if the right and lower edges belong to the box, else 0.
    """
    # Half precision would merge coordinates that differ by pixels.
    boxes, scores = boxes.float(), scores.float()
    if offset:
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], 1)
    return torch.ops.torchvision.nms(boxes, scores, _single(iou_threshold))


def _overlaps(box: np.ndarray, others: np.ndarray, offset: int) -> np.ndarray:
    """Return the IoU of a box with others, in float32 as mmcv computes it."""
    edge = np.float32(offset)
    corner = np.maximum(box[:2], others[:, :2])
    sides = np.maximum(np.minimum(box[2:], others[:, 2:]) - corner + edge, np.float32(0))
    shared = sides[:, 0] * sides[:, 1]
    areas = (others[:, 2] - others[:, 0] + edge) * (others[:, 3] - others[:, 1] + edge)
    with np.errstate(invalid='ignore', divide='ignore'):
        return shared / ((box[2] - box[0] + edge) * (box[3] - box[1] + edge) + areas - shared)


def softnms(boxes: Tensor, scores: Tensor, dets: Tensor, iou_threshold: float, sigma: float,
            min_score: float, method: int, offset: int) -> Tensor:
    """Lower the scores of boxes that overlap better ones, on the CPU.

    Args:
        boxes: ``(N, 4)`` corners.
        scores: ``(N, )``.
        dets: ``(N, 5)``, whose first rows receive the boxes with their new scores.
        iou_threshold: IoU from which scores are lowered.
        sigma: Width of the Gaussian.
        min_score: Boxes below it are dropped.
        method: 0 drops, 1 multiplies by ``1 - IoU``, 2 by a Gaussian of the IoU.
        offset: 1 if the right and lower edges belong to the box, else 0.

    Returns:
        The indices of the boxes in ``dets``.
    """
    corners = boxes.detach().float().numpy().copy()
    score = scores.detach().float().numpy().copy()
    index = np.arange(len(score))
    threshold, width, least = np.float32(iou_threshold), np.float32(sigma), np.float32(min_score)
    count, i = len(score), 0
    while i < count:
        # A NaN is never replaced because no score compares as larger.
        rest = np.where(np.isnan(score[i:count]), np.float32(-np.inf), score[i:count])
        best = i if np.isnan(score[i]) else i + int(rest.argmax())
        for values in (corners, score, index):
            values[[i, best]] = values[[best, i]]
        i += 1
        overlap = _overlaps(corners[i - 1], corners[i:count], offset)
        if method == 2:
            factor = np.exp(-(overlap * overlap) / width)
        else:
            lowered = 1 - overlap if method == 1 else np.zeros_like(overlap)
            factor = np.where(overlap >= threshold, lowered, np.float32(1))
        score[i:count] *= factor
        # mmcv fills the place of a dropped box with the last one, which decides between
        # equal scores: the kept ones of the back go into the gaps of the front, last first.
        keep = ~(score[i:count] < least)
        kept = int(keep.sum())
        gaps = i + np.flatnonzero(~keep[:kept])
        fillers = i + kept + np.flatnonzero(keep[kept:])[::-1]
        for values in (corners, score, index):
            values[gaps] = values[fillers]
        count = i + kept
    dets[:count, :4] = torch.from_numpy(corners[:count])
    dets[:count, 4] = torch.from_numpy(score[:count])
    return torch.from_numpy(index[:count])


def nms_match(dets: Tensor, iou_threshold: float) -> List[List[int]]:
    """Return for each box that NMS keeps its index and those of the boxes it suppresses.

    Args:
        dets: ``(N, 5)`` corners and scores, on the CPU.
        iou_threshold: IoU from which a box is suppressed.
    """
    order = dets[:, 4].sort(descending=True, stable=True)[1].numpy()
    corners = dets[:, :4].float().numpy()
    groups = []
    while len(order):
        first, order = order[0], order[1:]
        same = _overlaps(corners[first], corners[order], 0) >= np.float32(iou_threshold)
        groups.append([int(first), *order[same].tolist()])
        order = order[~same]
    return groups


def bbox_overlaps(bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool,
                  offset: int) -> None:
    """Write the overlap of each pair of boxes, or of boxes of the same index, to ``ious``.

    Args:
        bboxes1, bboxes2: ``(M, 4)`` and ``(N, 4)`` corners.
        ious: ``(M, N)``, or ``(M, )`` when aligned.
        mode: 0 for intersection over union, 1 for intersection over the first box.
        aligned: Compare boxes of the same index only.
        offset: 1 if the right and lower edges belong to the box, else 0.
    """
    first, second = bboxes1 if aligned else bboxes1[:, None], bboxes2
    sides = (torch.minimum(first[..., 2:], second[..., 2:]) -
             torch.maximum(first[..., :2], second[..., :2]) + offset).clamp(min=0)
    shared = sides.prod(-1)
    area1, area2 = ((box[..., 2:] - box[..., :2] + offset).prod(-1) for box in (first, second))
    ious.copy_(shared / (area1 if mode else area1 + area2 - shared))
