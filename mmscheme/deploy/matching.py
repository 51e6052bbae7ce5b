"""Compare two lists of detections of one image."""
from typing import Any, Dict, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ['Match', 'match_boxes']

# Scores this close to the last one kept decide by rounding who is in the list.
_CLOSE = 1e-4


class Match(NamedTuple):
    """A comparison of two lists of boxes.

    Attributes:
        number: Pairs of boxes with one label.
        difference: Largest difference of their coordinates in pixels.
        scores: Largest difference of their scores.
        alone: Boxes without a partner, but for those at the end of a list.
    """
    number: int
    difference: float
    scores: float
    alone: int

    def text(self) -> str:
        """Return the comparison as a sentence."""
        return (f'{self.number} boxes differ by {self.difference:.2g} pixels, their scores by '
                f'{self.scores:.2g}' + (f'; {self.alone} have no partner' if self.alone else ''))


def match_boxes(found: Dict[str, NDArray[Any]], reference: Any, within: float = 1.) -> Match:
    """Pair the boxes of an exported detector with mmdet's.

    Args:
        found: ``boxes``, ``scores``, ``labels`` with label -1 for no object.
        reference: Instances with ``bboxes``, ``scores`` and ``labels``.
        within: Boxes further apart than so many pixels are no pair.

    Returns:
        The comparison.
    """
    kept = found['labels'] >= 0
    boxes, scores, labels = (found[k][kept] for k in ('boxes', 'scores', 'labels'))
    expected = [np.asarray(reference[k]) for k in ('bboxes', 'scores', 'labels')]
    free = np.ones(len(labels), bool)
    difference = score_difference = 0.
    number = alone = 0
    full = len(expected[1]) == len(found['labels'])
    last = expected[1].min() if full and len(expected[1]) else -1.
    for box, score, label in zip(*expected):
        distances = np.where(free & (labels == label), np.abs(boxes - box).max(-1)
                             + np.abs(scores - score), np.inf)
        best = int(distances.argmin()) if len(distances) else -1
        if best < 0 or np.abs(boxes[best] - box).max() > within or not np.isfinite(
                distances[best]):
            alone += int(score > last + _CLOSE)
            continue
        free[best] = False
        number += 1
        difference = max(difference, float(np.abs(boxes[best] - box).max()))
        score_difference = max(score_difference, float(abs(scores[best] - score)))
    alone += int((free & (scores > last + _CLOSE)).sum())
    return Match(number, difference, score_difference, alone)
