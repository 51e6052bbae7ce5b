"""Segmenters with one channel, where mmsegmentation fails or is wrong."""
from functools import partial
from typing import Any, Callable, List, Optional

import torch
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import Tensor

from mmscheme.registry import MODELS

__all__ = ['CrossEntropyLoss', 'SegTTAModel']


def CrossEntropyLoss(**kwargs: Any) -> Any:
    """Build mmsegmentation's ``CrossEntropyLoss`` so that a batch may be ignored as a whole.

    With ``use_sigmoid`` and one channel, mmsegmentation's ends with an error where all crops of
    a batch are ignored. Here the loss of such a batch is 0; all others stay as they are.

    Args:
        **kwargs: Of mmsegmentation's.

    Returns:
        The loss, of its own class.
    """
    loss = MMENGINE_MODELS.build(dict(kwargs, type='mmseg.CrossEntropyLoss'))
    if loss.use_sigmoid:
        loss.cls_criterion = partial(_ignoring, loss.cls_criterion)
    return loss


def SegTTAModel(**kwargs: Any) -> Any:
    """Build mmsegmentation's ``SegTTAModel`` so that it takes one channel.

    mmsegmentation's applies the sigmoid twice and then finds class 1 everywhere where the
    threshold is 0.5 or lower.

    Args:
        **kwargs: Arguments of mmsegmentation's.

    Returns:
        The model, of its own class.
    """
    model = MMENGINE_MODELS.build(dict(kwargs, type='mmseg.SegTTAModel'))
    model.merge_preds = partial(_merging, model.merge_preds)
    return model


MODELS.register_module(module=CrossEntropyLoss)
MODELS.register_module(module=SegTTAModel)


def _ignoring(criterion: Callable[..., Tensor], pred: Tensor, label: Tensor,
              weight: Optional[Tensor] = None, ignore_index: int = -100, **kwargs: Any) -> Tensor:
    if pred.shape[1] == 1 and not (label != ignore_index).any():
        # Labels without weight: the loss is 0 in every reduction, and has a gradient.
        label, weight, ignore_index = torch.zeros_like(label), torch.zeros_like(pred[:, 0]), -100
    return criterion(pred, label, weight, ignore_index=ignore_index, **kwargs)


def _merging(merge: Callable[..., List[Any]], samples: List[List[Any]]) -> List[Any]:
    for views in samples:
        for sample in views:  # back to what the sigmoid is applied to
            sample.seg_logits.data = torch.logit(sample.seg_logits.data)
    return merge(samples)
