"""Find data sets, transforms, heads and other parts in a config."""
import inspect
from copy import deepcopy
from typing import Any, Dict, Iterator, List, Optional, Tuple

from mmengine import Config
from mmengine.model import PretrainedInit
from mmengine.registry import DATASETS, MODELS, WEIGHT_INITIALIZERS, Registry

__all__ = ['SPLITS', 'as_list', 'dataset_class', 'find_class', 'image_suffixes',
           'inference_pipeline', 'inner_model', 'is_pretrained', 'iter_datasets', 'iter_heads',
           'iter_hooks', 'loader_config', 'scope_of', 'step_name', 'walk']

SPLITS = ('train', 'val', 'test')

# Functions that return a model, which is this argument.
_WRAPPERS = dict(Distill='student', SCHEMEWrapper='backbone')

_FRAMEWORKS = ('mmseg', 'mmdet', 'mmpretrain')


def walk(node: Any, place: str = '') -> Iterator[Tuple[str, Dict[str, Any]]]:
    """Visit all dicts of a config, parents before their children, each with its dotted place.

    A visitor may change the dicts.
    """
    children: List[Tuple[Any, Any]] = []
    if isinstance(node, dict):
        yield place, node
        children = list(node.items())
    elif isinstance(node, (list, tuple)):
        children = list(enumerate(node))
    for key, child in children:
        yield from walk(child, f'{place}.{key}' if place else str(key))


def iter_datasets(cfg: Config, splits: Any = SPLITS) -> Iterator[Dict[str, Any]]:
    """Visit the data set dicts that name files, inside all wrappers; not copies of them."""
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


def iter_hooks(cfg: Config) -> Iterator[Tuple[str, Dict[str, Any]]]:
    """Visit the dicts of all hooks, each with its place; None switches a default hook off."""
    for key, hooks in (('default_hooks', cfg.get('default_hooks') or {}),
                       ('custom_hooks', dict(enumerate(as_list(cfg.get('custom_hooks')))))):
        yield from ((f'{key}.{name}', hook) for name, hook in hooks.items()
                    if isinstance(hook, dict))


def loader_config(cfg: Config, split: str) -> Dict[str, Any]:
    """Return a copy of a loader's dict; torch refuses persistent workers where there are none."""
    loader = deepcopy(cfg[f'{split}_dataloader'])
    if not loader.get('num_workers'):
        loader.pop('persistent_workers', None)
    return loader


def inference_pipeline(cfg: Config) -> List[Dict[str, Any]]:
    """Return the steps of the test pipeline, without those that load annotations."""
    for dataset in iter_datasets(cfg, ('test', 'val')):
        return [step for step in dataset.get('pipeline') or []
                if not step_name(step).endswith('Annotations')]
    return []


def image_suffixes(cfg: Config) -> Tuple[str, ...]:
    """Return the suffixes of images that are not usual but those of a config."""
    names = [step_name(step) for step in inference_pipeline(cfg)]
    loaders = [name for name in names if name.startswith('Load')]
    own = [d['img_suffix'] for d in iter_datasets(cfg) if isinstance(d.get('img_suffix'), str)]
    return (*own, *(() if loaders[:1] == ['LoadImageFromFile'] else ('.npy', )))


def as_list(value: Any) -> List[Any]:
    """Return a list of what a config gives as one value or several; None is no value."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def step_name(step: Dict[str, Any]) -> str:
    """Return the bare name of a part, whose type is a name or a class."""
    return getattr(step.get('type'), '__name__', str(step.get('type'))).split('.')[-1]


def dataset_class(dataset: Dict[str, Any]) -> Any:
    """Return the class of a data set's dict, or None if no registry knows it."""
    return find_class(DATASETS, dataset.get('of', dataset['type']))


def find_class(registry: Registry, kind: Any, scope: Optional[str] = None) -> Any:
    """Return the class of a ``type`` in a config, found as mmengine will.

    Args:
        registry: mmengine's own; those of the frameworks are below it.
        kind: A name (bare, with a scope, or with the module), or already the class.
        scope: Scope for bare names; by default the default scope of the process.

    Returns:
        The class, or None if no registry knows the name.
    """
    if not isinstance(kind, str):
        return kind
    with registry.switch_scope_and_registry(scope) as scoped:
        try:
            return scoped.get(kind)
        except RuntimeError:  # mmengine's, when there is no such module either
            return None


def is_pretrained(init: Any) -> bool:
    """Return True if an ``init_cfg`` reads a checkpoint."""
    return isinstance(init, dict) and find_class(
        WEIGHT_INITIALIZERS, init.get('type')) is PretrainedInit


def scope_of(cfg: Config) -> str:
    """Return the default scope of a config.

    If it has none, as configs of the new style (``with read_base()``), it is the framework of the
    model's class, or else ``'mmengine'``.
    """
    if cfg.get('default_scope'):
        return cfg.default_scope
    cls = find_class(MODELS, inner_model(cfg.get('model') or {}).get('type'), 'mmengine')
    packages = [c.__module__.split('.')[0] for c in inspect.getmro(cls)] \
        if inspect.isclass(cls) else []
    return next((p for p in packages if p in _FRAMEWORKS), 'mmengine')


def inner_model(model: Dict[str, Any]) -> Dict[str, Any]:
    """Return the dict of the network inside test-time augmentation, Distill and SCHEMEWrapper."""
    inner = model.get(_WRAPPERS.get(step_name(model), 'module'))
    return inner_model(inner) if inner else model


def iter_heads(model: Dict[str, Any]) -> Iterator[Tuple[str, Dict[str, Any]]]:
    """Visit the heads of a model that classify, each with its place in the config."""
    model = inner_model(model)
    for name in ('decode_head', 'auxiliary_head', 'bbox_head', 'mask_head', 'head'):
        for head in as_list(model.get(name)):
            yield name, head
    roi = model.get('roi_head') or {}
    for name in ('bbox_head', 'mask_head'):
        for head in as_list(roi.get(name)):
            yield f'roi_head.{name}', head
