"""Where a config names data sets, transforms and heads."""
from typing import Any, Dict, Iterator, List, Tuple

from mmengine import Config
from mmengine.registry import DATASETS

__all__ = ['SPLITS', 'as_list', 'dataset_class', 'inner_model', 'iter_datasets', 'iter_heads',
           'step_name']

SPLITS = ('train', 'val', 'test')


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
    """The name of a pipeline's step, whose type is a name or a class."""
    return getattr(step['type'], '__name__', str(step['type']))


def dataset_class(dataset: Dict[str, Any]) -> Any:
    """The class of a data set's dict, or None where no registry knows it."""
    cls = dataset.get('of', dataset['type'])
    if isinstance(cls, str):
        with DATASETS.switch_scope_and_registry(None) as registry:
            cls = registry.get(cls)
    return cls


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
