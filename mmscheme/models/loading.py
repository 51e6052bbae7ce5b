"""A model with the weights of a checkpoint, all of them."""
from copy import deepcopy
from typing import Any, Dict, List, Tuple

from mmengine import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from mmscheme.utils.checkpoint_io import load_checkpoint
from mmscheme.utils.config_query import dataset_class, iter_datasets, scope_of

__all__ = ['build_model', 'load_model', 'load_weights']


def build_model(cfg: Config) -> nn.Module:
    """The model of a config in evaluation mode, on the CPU and without SyncBN.

    Args:
        cfg: A config of mmsegmentation, mmdetection or mmpretrain; not changed.

    Returns:
        The model, its weights random.
    """
    init_default_scope(scope_of(cfg))
    model = deepcopy(cfg.model)
    if cfg.get('data_preprocessor') and not model.get('data_preprocessor'):
        model['data_preprocessor'] = deepcopy(cfg.data_preprocessor)
    return revert_sync_batchnorm(MODELS.build(model)).eval()


def load_weights(model: nn.Module, weights: Dict[str, Tensor], source: str) -> None:
    """Loads weights, all of the model's and no others.

    Args:
        model: Changed in place.
        weights: Tensors by key.
        source: Where they are from, for the message.

    Raises:
        ValueError: Keys or shapes differ.
    """
    own = model.state_dict()
    problems: List[str] = []
    for kind, keys in (('missing', [k for k in own if k not in weights]),
                       ('unexpected', [k for k in weights if k not in own])):
        if keys:
            more = f' and {len(keys) - 2} more' if len(keys) > 2 else ''
            problems.append(f'{kind} {", ".join(keys[:2])}{more}')
    problems += [f'{k} is {tuple(weights[k].shape)}, expected {tuple(own[k].shape)}'
                 for k in own if k in weights and weights[k].shape != own[k].shape][:2]
    if problems:
        raise ValueError(f'{source}: not a checkpoint of this config: {"; ".join(problems)}')
    model.load_state_dict(weights)


def load_model(cfg: Config, checkpoint: str) -> Tuple[nn.Module, Dict[str, Any]]:
    """Builds the model of a config with the weights of a checkpoint.

    Args:
        cfg: A config of mmsegmentation, mmdetection or mmpretrain.
        checkpoint: File, read without running code from it.

    Returns:
        The model in evaluation mode, on the CPU; the meta data of its data set, with
        ``classes`` and where they are known ``palette``.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: It is none, or of another model.
    """
    content = load_checkpoint(checkpoint, map_location='cpu')
    weights = content.get('state_dict', content) if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not any(isinstance(v, Tensor) for v in weights.values()):
        raise ValueError(f'{checkpoint}: expected weights under state_dict')
    model = build_model(cfg)
    load_weights(model, {k.removeprefix('module.'): v for k, v in weights.items()}, checkpoint)
    return model, dataset_meta(cfg, content)


def dataset_meta(cfg: Config, content: Dict[str, Any]) -> Dict[str, Any]:
    """Classes and palette: as the checkpoint notes them, or else as the test data have them."""
    noted = {k: v for k, v in ((content.get('meta') or {}).get('dataset_meta') or {}).items()
             if v is not None}
    for dataset in iter_datasets(cfg, ('test', 'val', 'train')):
        own = {**(getattr(dataset_class(dataset), 'METAINFO', None) or {}),
               **(dataset.get('metainfo') or {})}
        if tuple(noted.get('classes') or ()) in ((), tuple(own.get('classes') or ())):
            return {**own, **noted}
        break
    return noted
