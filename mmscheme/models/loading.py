"""A model with the weights of a checkpoint, all of them."""
from copy import deepcopy
from typing import Any, Dict, List, Optional, Tuple

from mmengine import Config
from mmengine.dataset import BaseDataset
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, init_default_scope
from torch import Tensor, nn

from mmscheme.registry import MODELS
from mmscheme.utils.checkpoint_io import compare_state_dicts, read_weights
from mmscheme.utils.config_query import dataset_class, iter_datasets, scope_of

__all__ = ['build_argument', 'build_model', 'dataset_meta', 'label_ids', 'load_model',
           'load_weights']


def build_model(cfg: Config) -> nn.Module:
    """Build the model of a config in evaluation mode, on the CPU and without SyncBN.

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


def build_argument(name: str, model: Any, data_preprocessor: Optional[dict] = None) -> nn.Module:
    """Build what an argument gives as a config or as a module.

    Args:
        name: Name of the argument.
        model: A config with a type, not changed, or the module.
        data_preprocessor: That of a model whose config has none.

    Raises:
        TypeError, ValueError: It is neither, or of no registered type.
    """
    if data_preprocessor is not None and not isinstance(data_preprocessor, dict):
        raise TypeError(f'data_preprocessor: expected a dict or None, found {data_preprocessor!r}')
    if isinstance(model, dict) and 'type' in model:
        model = deepcopy(model)
        if data_preprocessor is not None:
            model.setdefault('data_preprocessor', deepcopy(data_preprocessor))
        try:
            model = MODELS.build(model)
        except KeyError as e:  # no such type
            raise ValueError(f'{name}: {e.args[0]}') from e
    if not isinstance(model, nn.Module):
        raise TypeError(f'{name}: expected a config with a type or a module, found '
                        f'{type(model).__name__}')
    return model


def load_weights(model: nn.Module, weights: Dict[str, Tensor], source: str) -> None:
    """Load all weights of a model, and no others.

    Args:
        model: Changed in place.
        weights: Tensors by key.
        source: Their file, for the message.

    Raises:
        ValueError: Keys or shapes differ.
    """
    problems = compare_state_dicts(model.state_dict(), weights).problems()
    if problems:
        raise ValueError(f'{source}: not a checkpoint of this config: {"; ".join(problems)}')
    model.load_state_dict(weights)


def load_model(cfg: Config, checkpoint: str) -> Tuple[nn.Module, Dict[str, Any]]:
    """Build the model of a config with the weights of a checkpoint.

    Args:
        cfg: A config of mmsegmentation, mmdetection or mmpretrain.
        checkpoint: File, read without running code from it.

    Returns:
        The model in evaluation mode, on the CPU; the meta data of its data set, with
        ``classes`` and ``palette`` if they are known.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: It is not a checkpoint, or of another model.
    """
    weights, meta = read_weights(checkpoint)
    model = build_model(cfg)
    load_weights(model, weights, checkpoint)
    return model, dataset_meta(cfg, meta)


def dataset_meta(cfg: Config, meta: Dict[str, Any]) -> Dict[str, Any]:
    """Return classes and palette as the checkpoint notes them, or else as the test data do."""
    noted = {k: v for k, v in (meta.get('dataset_meta') or {}).items() if v is not None}
    for dataset in iter_datasets(cfg, ('test', 'val', 'train')):
        own = {**(getattr(dataset_class(dataset), 'METAINFO', None) or {}),
               **(dataset.get('metainfo') or {})}
        if tuple(noted.get('classes') or ()) in ((), tuple(own.get('classes') or ())):
            return {**own, **noted}
        break
    return noted


def label_ids(cfg: Config, meta: Dict[str, Any]) -> Optional[List[int]]:
    """Return the ids that a segmenter's classes have in the masks of its data set.

    Reading masks may subtract 1 (``reduce_zero_label``) or pick some of the classes
    (``metainfo``); this is the way back.

    Args:
        cfg: A config.
        meta: Of :func:`dataset_meta`.

    Returns:
        An id for each class, or None where the task or the classes have none.
    """
    if scope_of(cfg) != 'mmseg' or not meta.get('classes'):
        return None
    init_default_scope('mmseg')
    for dataset in iter_datasets(cfg, ('test', 'val', 'train')):
        cls = dataset_class(dataset)
        if not isinstance(cls, type) or not issubclass(cls, BaseDataset):
            break
        built = DATASETS.build(dict(dataset, lazy_init=True, pipeline=[]))
        own = {new: old for old, new in (getattr(built, 'label_map', None) or {}).items()}
        first = int(bool(getattr(built, 'reduce_zero_label', False)))
        return [own.get(i, i) + first for i in range(len(meta['classes']))]
    return list(range(len(meta['classes'])))
