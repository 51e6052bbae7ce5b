"""Where a config names data sets, transforms and heads."""
import inspect
from typing import Any, Dict, Iterator, List, Optional, Tuple

from mmengine import Config
from mmengine.model import PretrainedInit
from mmengine.registry import DATASETS, MODELS, WEIGHT_INITIALIZERS, Registry

__all__ = ['SPLITS', 'as_list', 'dataset_class', 'find_class', 'inner_model', 'is_pretrained',
           'iter_datasets', 'iter_heads', 'scope_of', 'step_name']

SPLITS = ('train', 'val', 'test')

_FRAMEWORKS = ('mmseg', 'mmdet', 'mmpretrain')


def iter_datasets(cfg: Config, splits: Any = SPLITS) -> Iterator[Dict[str, Any]]:
    """The data set dicts that name files, from inside all wrappers.

    Args:
        cfg: A config.
        splits: Which of ``'train'``, ``'val'`` and ``'test'`` to visit.

    Yields:
        The dicts in the config themselves, not copies.
    """
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if loader and loader.get('dataset'):
            yield from _unwrap(loader['dataset'])


def _unwrap(dataset: Dict[str, Any]) -> Iterator[Dict[str, Any]]:
    inner = dataset.get('datasets', dataset.get('dataset'))
    if inner is None:
        yield dataset
    else:
        for child in as_list(inner):
            yield from _unwrap(child)


def as_list(value: Any) -> List[Any]:
    """What a config gives as one thing or several, as a list; None is none."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def step_name(step: Dict[str, Any]) -> str:
    """The bare name of a pipeline's step or another part, whose type is a name or a class."""
    return getattr(step.get('type'), '__name__', str(step.get('type'))).split('.')[-1]


def dataset_class(dataset: Dict[str, Any]) -> Any:
    """The class of a data set's dict, or None where no registry knows it."""
    return find_class(DATASETS, dataset.get('of', dataset['type']))


def find_class(registry: Registry, kind: Any, scope: Optional[str] = None) -> Any:
    """What a ``type`` of a config is, found as mmengine will.

    Args:
        registry: mmengine's own; those of the frameworks are below it.
        kind: A name (bare, with a scope, or with the module), or already the class.
        scope: Where bare names are looked up; the default scope of the process by default.

    Returns:
        The class, or None where no registry knows the name.
    """
    if not isinstance(kind, str):
        return kind
    with registry.switch_scope_and_registry(scope) as scoped:
        try:
            return scoped.get(kind)
        except RuntimeError:  # mmengine's, when there is no such module either
            return None


def is_pretrained(init: Any) -> bool:
    """Whether an ``init_cfg`` reads a checkpoint."""
    return isinstance(init, dict) and find_class(
        WEIGHT_INITIALIZERS, init.get('type')) is PretrainedInit


def scope_of(cfg: Config) -> str:
    """The default scope of a config.

    Args:
        cfg: A config; those of the new style (``with read_base()``) say None and name classes.

    Returns:
        ``default_scope``, or else the framework that the model is of, or else ``'mmengine'``.
    """
    if cfg.get('default_scope'):
        return cfg.default_scope
    cls = find_class(MODELS, inner_model(cfg.get('model') or {}).get('type'), 'mmengine')
    packages = [c.__module__.split('.')[0] for c in inspect.getmro(cls)] \
        if inspect.isclass(cls) else []
    return next((p for p in packages if p in _FRAMEWORKS), 'mmengine')


def inner_model(model: Dict[str, Any]) -> Dict[str, Any]:
    """The network's dict; test-time augmentation wraps it."""
    return model.get('module') or model


def iter_heads(model: Dict[str, Any]) -> Iterator[Tuple[str, Dict[str, Any]]]:
    """The heads of a model that classify, with their place in the config."""
    model = inner_model(model)
    for name in ('decode_head', 'auxiliary_head', 'bbox_head', 'mask_head', 'head'):
        for head in as_list(model.get(name)):
            yield name, head
    roi = model.get('roi_head') or {}
    for name in ('bbox_head', 'mask_head'):
        for head in as_list(roi.get(name)):
            yield f'roi_head.{name}', head
