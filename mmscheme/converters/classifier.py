"""From a trained dense model to a block-diagonal one."""
from copy import deepcopy
from typing import Any, Dict, List, NamedTuple, Sequence

import torch
from mmengine import Config
from torch import Tensor, nn

from mmscheme.models import SCHEMEformer
from mmscheme.models.loading import build_model, load_weights

from .block_diagonal import convert_backbone
from .fit import LayerFit

__all__ = ['BlockDiagonalModel', 'convert_classifier']


class BlockDiagonalModel(NamedTuple):
    """A converted model.

    Attributes:
        model: The model with the block-diagonal backbone.
        report: What each FFN keeps.
    """
    model: nn.Module
    report: List[LayerFit]


def convert_classifier(cfg: Config, weights: Dict[str, Tensor], images: Sequence[Tensor],
                       groups: Sequence[int] = (4, 4), expansion: float = 8, **settings: Any
                       ) -> BlockDiagonalModel:
    """Turn a trained model with a dense SCHEMEformer into a block-diagonal one.

    The order of a stage's channels is free where nobody but the backbone reads the stage,
    and in the last stage of a classifier with a linear head, which follows; other stages
    keep theirs.

    Args:
        cfg: Config of the dense model.
        weights: Its weights; all must fit.
        images: See :func:`~mmscheme.converters.convert_backbone`.
        groups, expansion: Groups and expansion of the new FFNs.
        **settings: Further arguments of :func:`~mmscheme.converters.convert_backbone`.

    Returns:
        The new model and the report.

    Raises:
        ValueError: The model has no dense SCHEMEformer, or the weights do not fit it.
    """
    dense = build_model(cfg)
    if not isinstance(getattr(dense, 'backbone', None), SCHEMEformer):
        raise ValueError('model.backbone: expected a mmscheme.SCHEMEformer to convert, found '
                         f'{type(getattr(dense, "backbone", None)).__name__}')
    load_weights(dense, weights, 'weights')
    new_cfg = deepcopy(cfg)
    new_cfg.model.backbone.update(groups=tuple(groups), expansion=expansion, cca=True)
    model = build_model(new_cfg)
    rest = {k: v for k, v in dense.state_dict().items() if not k.startswith('backbone.')}
    model.load_state_dict(rest, strict=False)
    head = getattr(getattr(model, 'head', None), 'fc', None)
    # Pooling keeps the channels; what else may stand between does not.
    pooled = type(getattr(model, 'neck', None)).__name__ in ('GlobalAveragePooling', 'NoneType')
    follows = isinstance(head, nn.Linear) and pooled and model.backbone.out_indices == (3, )
    hidden = [i for i in range(len(model.backbone.stages))
              if i not in model.backbone.out_indices]
    report, orders = convert_backbone(dense.backbone, model.backbone, images,
                                      movable=(*hidden, 3) if follows else hidden, **settings)
    if isinstance(head, nn.Linear) and follows and 3 in orders:
        with torch.no_grad():
            head.weight.copy_(head.weight[:, orders[3]])
    return BlockDiagonalModel(model, report)
