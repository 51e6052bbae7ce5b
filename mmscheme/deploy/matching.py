"""Compare two lists of detections of one image."""
from typing import Any, Dict, List, NamedTuple, Tuple

import numpy as np
from numpy.typing import NDArray

__all__ = ['Match', 'match_boxes', 'rms']

# Scores this close to the last one kept decide by rounding who is in the list.
_CLOSE = 1e-4
# Largest distance of the boxes of a pair, in pixels.
_PIXELS = 1.
# Logits that deviate by less are as good as one.
_FLAT = 0.1


class Match(NamedTuple):
    """A comparison of two lists of boxes.

    Attributes:
        number: Pairs of boxes with one label.
        pixels: Largest difference of their coordinates in pixels.
        difference: Root mean square of the same, in units of the box's sides.
        scores: Root mean square of the differences of their scores as logits, in units of the
            logits' deviation.
        alone: Boxes without a partner, but for those at the end of a list.
        masks: Root mean square of the differences of their masks' probabilities as logits, in
            units of the logits' deviation; 0 where there are none.
    """
    number: int
    pixels: float
    difference: float
    scores: float
    alone: int
    masks: float = 0.

    def text(self) -> str:
        """Return the comparison as a sentence."""
        masks = f', those of their masks by {self.masks:.2g}' if self.masks else ''
        return (f'{self.number} boxes differ by {self.difference:.2g} of their sides (at most '
                f'{self.pixels:.2g} pixels), the logits of their scores by {self.scores:.2g} of '
                f'their deviation{masks}'
                + (f'; {self.alone} have no partner' if self.alone else ''))


def match_boxes(found: Dict[str, NDArray[Any]], reference: Any) -> Match:
    """Pair the boxes of an exported detector with mmdet's.

    Args:
        found: ``boxes``, ``scores``, ``labels`` with label -1 for no object, and ``masks``.
        reference: Instances with ``bboxes``, ``scores`` and ``labels``, and ``probabilities``
            of masks.

    Returns:
        The comparison.
    """
    kept = found['labels'] >= 0
    boxes, scores, labels = (found[k][kept] for k in ('boxes', 'scores', 'labels'))
    expected = [np.asarray(reference[k]) for k in ('bboxes', 'scores', 'labels')]
    free = np.ones(len(labels), bool)
    pairs: List[Tuple[int, int]] = []
    alone = 0
    full = len(expected[1]) == len(found['labels'])
    last = expected[1].min() if full and len(expected[1]) else -1.
    for i, (box, score, label) in enumerate(zip(*expected)):
        distances = np.where(free & (labels == label), np.abs(boxes - box).max(-1)
                             + np.abs(scores - score), np.inf)
        best = int(distances.argmin()) if len(distances) else -1
        if best < 0 or not np.isfinite(distances[best]) or (
                np.abs(boxes[best] - box).max() > _PIXELS):
            alone += int(score > last + _CLOSE)
            continue
        free[best] = False
        pairs.append((best, i))
    alone += int((free & (scores > last + _CLOSE)).sum())
    if not pairs:
        return Match(0, 0., 0., 0., alone)
    ours, theirs = (list(side) for side in zip(*pairs))
    gaps = boxes[ours] - expected[0][theirs]
    sides = np.tile(expected[0][theirs, 2:] - expected[0][theirs, :2], 2)
    masks = _gap(found['masks'][ours], np.asarray(reference['probabilities'])[theirs]
                 ) if 'masks' in found else 0.
    return Match(len(pairs), float(np.abs(gaps).max()), rms(gaps / np.maximum(sides, 1)),
                 _gap(scores[ours], expected[1][theirs]), alone, masks)


def _gap(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return how far probabilities are apart as logits, in units of these logits' deviation."""
    right = _logit(expected)
    return rms(_logit(found) - right) / max(float(np.std(right)), _FLAT)


def _logit(scores: NDArray[Any]) -> NDArray[Any]:
    # Above, the last digit of a score in float32 is too much of its logit.
    p = np.clip(scores.astype(np.float64), 1e-6, 0.99)
    return np.log(p / (1 - p))


def rms(values: NDArray[Any]) -> float:
    """Return the root mean square of values."""
    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))
