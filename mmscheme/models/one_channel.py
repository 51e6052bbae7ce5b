"""Segmenters with one channel, where mmsegmentation fails or is wrong."""
from functools import partial
from typing import Any, Callable, List, Optional, Tuple

import torch
from mmengine import Config
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import Tensor

from mmscheme.registry import MODELS
from mmscheme.utils.config_query import as_list, find_class, iter_heads, scope_of

__all__ = ['CrossEntropyLoss', 'SegTTAModel', 'use_own_parts']


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


def use_own_parts(cfg: Config) -> List[Tuple[str, str, str]]:
    """Give segmenters with one channel these classes in the place of mmsegmentation's.

    A class that a user has derived from one stays.

    Args:
        cfg: Changed in place, its default scope initialised.

    Returns:
        For each change its place in the config, the name of the class, and why.
    """
    heads = [(place, head) for place, head in iter_heads(cfg.model)
             if head.get('out_channels') == 1] if scope_of(cfg) == 'mmseg' else []
    if not heads:
        return []
    from mmseg import models as stock
    nodes = [(f'model.{place}.loss_decode.type', loss, stock.CrossEntropyLoss,
              'which takes batches in which all is ignored')
             for place, head in heads for loss in as_list(head.get('loss_decode'))]
    nodes.append(('model.type', cfg.model, stock.SegTTAModel,
                  'which applies the sigmoid of one channel once'))
    changes = []
    for place, node, cls, why in nodes:
        if find_class(MMENGINE_MODELS, node.get('type')) is cls:
            node['type'] = f'mmscheme.{cls.__name__}'
            changes.append((place, cls.__name__, why))
    return changes


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
