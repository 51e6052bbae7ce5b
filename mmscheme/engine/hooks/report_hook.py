"""Data for a test report, gathered while the test runs."""
from copy import deepcopy
from functools import partial
from operator import attrgetter
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from numpy.typing import NDArray

__all__ = ['ImageResult', 'ReportHook', 'confuse_boxes', 'confuse_labels']

#: Boxes below this score do not count in the confusion, and are not drawn.
SCORE = 0.3
#: Overlap from which on a box is that of an object.
OVERLAP = 0.5


class ImageResult(NamedTuple):
    """An image with prediction and truth.

    Attributes:
        path: Path of the image file.
        score: In [0, 100]; None where there is nothing to find and nothing was found.
        sample: Prediction and truth as the framework has them, on the CPU.
    """
    path: str
    score: Optional[float]
    sample: Any


def confuse_labels(truth: NDArray[Any], predicted: NDArray[Any], classes: int) -> NDArray[Any]:
    """Count pixels by true and predicted label; the truth is in rows.

    Pixels whose true label is not below ``classes``, such as 255, do not count.
    """
    valid = (truth >= 0) & (truth < classes)
    flat = truth[valid].astype(np.int64) * classes + predicted[valid].astype(np.int64)
    return np.bincount(flat, minlength=classes**2).reshape(classes, classes)


def _overlaps(a: NDArray[Any], b: NDArray[Any], of_first: bool = False) -> NDArray[Any]:
    """Return the IoU of all pairs of boxes, or the share of the first that is inside."""
    corner = np.maximum(a[:, None, :2], b[None, :, :2])
    end = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inside = np.clip(end - corner, 0, None).prod(-1)
    area_a, area_b = ((x[:, 2:] - x[:, :2]).prod(-1) for x in (a, b))
    whole = area_a[:, None] if of_first else area_a[:, None] + area_b[None] - inside
    return inside / np.maximum(whole, 1e-9)


def confuse_boxes(truth: Tuple[NDArray[Any], NDArray[Any]],
                  predicted: Tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
                  ignored: NDArray[Any], classes: int) -> NDArray[Any]:
    """Count objects by true and predicted class; the last row and column are background.

    A box takes the free object of its class that it overlaps most, the best score first;
    what is left over is paired without regard to classes.

    Args:
        truth: Boxes ``(N, 4)`` and labels ``(N,)``.
        predicted: Boxes, labels and scores; those below 0.3 do not count.
        ignored: Boxes ``(K, 4)``, as of crowds; what lies in them and meets no object does
            not count.
        classes: Number of classes.

    Returns:
        ``(classes + 1, classes + 1)``, the truth in rows.
    """
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    boxes, labels, scores = (p[predicted[2] >= SCORE] for p in predicted)
    order = np.argsort(-scores, kind='stable')
    boxes, labels = boxes[order], labels[order]
    overlaps = _overlaps(boxes, truth[0])
    free = np.ones(len(truth[1]), bool)
    single = np.ones(len(labels), bool)
    for same in (True, False):
        for i in np.flatnonzero(single):
            allowed = free & (truth[1] == labels[i]) if same else free
            fit = np.where(allowed, overlaps[i], 0) if len(free) else np.zeros(1)
            best = int(fit.argmax())
            if fit[best] >= OVERLAP:
                free[best], single[i] = False, False
                counts[truth[1][best], labels[i]] += 1
    crowd = (_overlaps(boxes, ignored, True) >= OVERLAP).any(1) if len(ignored) else ~single & False
    np.add.at(counts[classes], labels[single & ~crowd], 1)
    np.add.at(counts[:, classes], truth[1][free], 1)
    return counts


class ReportHook(Hook):
    """Gather a confusion matrix, and the images that a model is worst and best at.

    Args:
        scope: ``'mmseg'`` or ``'mmdet'``.
        number: Images of each kind that are kept.

    Attributes:
        confusion: Counts, the truth in rows.
        worst, best: Images, the extreme ones first.
        metrics: Metrics of the whole test.
    """

    def __init__(self, scope: str, number: int = 6) -> None:
        if scope not in ('mmseg', 'mmdet'):
            raise ValueError(f'--report: expected segmentation or detection, found {scope!r}')
        self.scope = scope
        self.number = number
        self.confusion: Optional[NDArray[Any]] = None
        self.worst: List[ImageResult] = []
        self.best: List[ImageResult] = []
        self.images = 0
        self.metrics: Dict[str, Any] = {}
        self.meta: Dict[str, Any] = {}
        self.speed: Dict[str, float] = {}

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Optional[Any] = None,
                        outputs: Optional[Sequence[Any]] = None) -> None:
        """Count the samples of a batch."""
        if not self.meta:
            self.meta = dict(runner.test_dataloader.dataset.metainfo)
        classes = len(self.meta['classes'])
        for sample in outputs or ():
            count, keep = ((_count_labels, _kept_labels) if self.scope == 'mmseg' else
                           (_count_boxes, _kept_boxes))
            counts, score = count(sample, classes)
            if counts is not None:
                self.confusion = counts if self.confusion is None else self.confusion + counts
            self.images += 1
            self._keep(sample.img_path, score, partial(keep, sample))

    def _keep(self, path: str, score: Optional[float], sample: Callable[[], Any]) -> None:
        """Keep an image, and copy its sample, if it is among the worst or best."""
        if score is None and self.images > self.number:
            return
        result: Optional[ImageResult] = None
        for kept, sign in ((self.worst, 1), (self.best, -1)):
            if len(kept) == self.number and sign * _rank(score) >= sign * _rank(kept[-1].score):
                continue
            result = result or ImageResult(path, score, sample())
            kept.append(result)
            kept.sort(key=lambda r: _rank(r.score), reverse=sign < 0)
            del kept[self.number:]

    def after_test_epoch(self, runner: Any, metrics: Optional[Dict[str, float]] = None) -> None:
        """Gather the counts and images of all processes."""
        self.metrics = dict(metrics or {})
        scalars = runner.message_hub.log_scalars
        self.speed = {k: float(scalars[f'test/{k}'].mean()) for k in ('time', 'data_time')
                      if f'test/{k}' in scalars}
        parts = all_gather_object((self.confusion, self.worst, self.best, self.images))
        if len(parts) > 1:
            confusions = [p[0] for p in parts if p[0] is not None]
            self.confusion = sum(confusions) if confusions else None
            self.worst, self.best, self.images = [], [], 0
            for _, worst, best, images in parts:
                self.images += images
                for result in {r.path: r for r in [*worst, *best]}.values():
                    self._keep(result.path, result.score, partial(attrgetter('sample'), result))
        # An image is shown once.
        half = [r.path for r in self.worst[:max(1, min(self.number, self.images // 2))]]
        self.worst = [r for r in self.worst if r.path in half]
        self.best = [r for r in self.best if r.path not in half and r.score is not None]


def _rank(score: Optional[float]) -> float:
    return -1. if score is None else score


def _truth_labels(sample: Any) -> Optional[NDArray[Any]]:
    """Return the true label map, if there is one of the size of the prediction."""
    if 'gt_sem_seg' not in sample:
        return None
    truth = sample.gt_sem_seg.data.squeeze(0)
    return truth.cpu().numpy() if truth.shape == sample.pred_sem_seg.data.shape[1:] else None


def _count_labels(sample: Any, classes: int) -> Tuple[Any, Optional[float]]:
    truth = _truth_labels(sample)
    if truth is None:
        return None, None
    counts = confuse_labels(truth, sample.pred_sem_seg.data.squeeze(0).cpu().numpy(), classes)
    union = counts.sum(0) + counts.sum(1) - counts.diagonal()
    seen = union > 0
    score = float(100 * (counts.diagonal()[seen] / union[seen]).mean()) if seen.any() else None
    return counts, score


def _kept_labels(sample: Any) -> Dict[str, Any]:
    truth = _truth_labels(sample)
    return dict(predicted=sample.pred_sem_seg.data.squeeze(0).cpu().numpy().astype(np.uint16),
                truth=None if truth is None else truth.astype(np.uint16))


def _count_boxes(sample: Any, classes: int) -> Tuple[Any, Optional[float]]:
    if 'gt_instances' not in sample:
        return None, None
    truth, found = sample.gt_instances, sample.pred_instances
    ignored = sample.ignored_instances if 'ignored_instances' in sample else None
    counts = confuse_boxes(
        (_boxes(truth), truth.labels.cpu().numpy()),
        (_boxes(found), found.labels.cpu().numpy(), found.scores.cpu().numpy()),
        np.zeros((0, 4)) if ignored is None else _boxes(ignored), classes)
    total = counts[:classes].sum() + counts[:, :classes].sum()
    right = counts.diagonal()[:classes].sum()
    return counts, float(200 * right / total) if total else None


def _kept_boxes(sample: Any) -> Any:
    found = sample.pred_instances
    kept = sample.cpu()  # a new sample, what is in it is shared
    kept.pred_instances = found[found.scores >= SCORE].cpu()
    return deepcopy(kept)


def _boxes(instances: Any) -> NDArray[Any]:
    boxes = instances.bboxes
    return (boxes.tensor if hasattr(boxes, 'tensor') else boxes).cpu().numpy().reshape(-1, 4)
