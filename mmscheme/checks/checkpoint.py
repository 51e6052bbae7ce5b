"""Checks of the checkpoints that a run will read."""
import os
from typing import Any, Dict, Optional

import torch
from mmengine import Config
from torch import Tensor, nn

from mmscheme.utils.checkpoint_io import (
    CACHED_SOURCES,
    find_weights,
    load_checkpoint,
    load_matching,
)
from mmscheme.utils.config_query import is_pretrained, walk

from .findings import Findings

__all__ = ['check_checkpoint', 'check_named_files']

# Keys that mmengine's Runner.resume looks up.
_STATE = ('meta', 'message_hub', 'optimizer')

# Share of a model's values below which a checkpoint is of something else.
_LEAST = 0.01


def check_checkpoint(path: str, model: Optional[nn.Module], use: str, findings: Findings) -> None:
    """Read a checkpoint as the run will, and compare it with the model, whose weights it replaces.

    For ``use='test'`` and ``'resume'`` all weights must fit, for ``'load_from'`` some must. A
    file that would be fetched twice is left to the run.
    """
    if '://' in path and not path.startswith(CACHED_SOURCES):
        return
    if os.path.isdir(path):
        findings.error(f'checkpoint not found: {path} is a folder; name a file in it')
        return
    try:
        content = load_checkpoint(path, map_location='cpu')
    except (OSError, ValueError) as e:
        findings.error(str(e) if path in str(e) else f'{path}: {e}')
        return
    odd = _odd_entries(content, model)
    if odd:
        findings.error(f'{path}: expected tensors by name under state_dict, found {odd}')
        return
    weights = find_weights(dict(state_dict=content.get('state_dict', content)))
    bad = [k for k, v in weights.items() if v.is_floating_point() and not _finite(v)]
    if bad:
        findings.error(f'{path}: {len(bad)} weights are not finite, the first is {bad[0]}; use an '
                       'earlier checkpoint')
    if use == 'resume':
        _check_state(path, content, findings)
    _check_classes(path, content.get('meta'), use, findings)
    if model is not None:
        _compare(path, weights, model, use, findings)


def _odd_entries(content: Dict[Any, Any], model: Optional[nn.Module]) -> str:
    """Describe the first entry that mmengine, which takes all there is, cannot load."""
    inside = isinstance(content, dict) and 'state_dict' in content
    entries = content['state_dict'] if inside else content
    if not isinstance(entries, dict):
        return f'a {type(entries).__name__}'
    own = set() if model is None else set(model.state_dict())
    for key, value in entries.items():
        if not isinstance(key, str):
            return f'the name {key!r}'[:80]
        if key.removeprefix('module.') in own and not isinstance(value, Tensor):
            return f'a {type(value).__name__} as {key}'
    if not any(isinstance(v, Tensor) for v in entries.values()):
        return f'the keys {sorted(entries)[:5]}'
    return ''


def _finite(value: Tensor) -> bool:
    try:
        return bool(torch.isfinite(value).all())
    except (RuntimeError, NotImplementedError):  # a type that has no such operation
        return True


def _check_state(path: str, content: Dict[str, Any], findings: Findings) -> None:
    missing = [k for k in _STATE if not isinstance(content.get(k), dict)]
    meta = content.get('meta')
    if isinstance(meta, dict):
        missing += [f'meta.{k}' for k in ('epoch', 'iter') if not isinstance(meta.get(k), int)]
    if missing:
        findings.error(f'{path}: no training to resume in it ({", ".join(missing)} missing); '
                       f'--cfg-options load_from={path} starts from its weights')


def _check_classes(path: str, meta: Any, use: str, findings: Findings) -> None:
    """Compare the names of the classes, of which weights know the number alone."""
    told = (meta.get('dataset_meta') or {}).get('classes') if isinstance(meta, dict) else ()
    for table in findings.labels[:1]:
        names, own = ([str(n) for n in some or ()] for some in (told, table.names))
        if names == own or len(names) != len(own):  # another number does not fit the head
            continue
        i = next(i for i, pair in enumerate(zip(names, own)) if pair[0] != pair[1])
        text = f'{path}: its class {i} is {names[i]!r}, that of {table.where} {own[i]!r}: '
        if sorted(names) == sorted(own):
            findings.error(f'{text}write the classes in the order of the checkpoint')
        elif use != 'load_from':
            findings.warn(f'{text}labels may mean different things')


def _compare(path: str, weights: Dict[str, Tensor], model: nn.Module, use: str,
             findings: Findings) -> None:
    try:
        diff = load_matching(model, weights)
    except Exception as e:
        findings.error(f'{path}: not a checkpoint of this config: {e}')
        return
    problems = '; '.join(diff.problems())
    incomplete = diff.missing or diff.mismatched
    if incomplete and use != 'load_from':
        findings.error(f'{path}: not a checkpoint of this config: {problems}')
    elif problems and diff.fraction < _LEAST:
        findings.error(f'{path}: not a checkpoint of this config: {problems}; '
                       f'{diff.fraction:.1%} of the parameters would be loaded')
    elif incomplete:
        findings.warn(f'{path}: {diff.fraction:.1%} of the parameters are in it, the rest start '
                      f'from random weights: {problems}')
    elif problems:
        findings.warn(f'{path}: {problems}; the model has no place for them')


def check_named_files(cfg: Config, findings: Findings) -> None:
    """Check that the files which ``init_cfg`` and the pretrained backbone name are there."""
    named = {f'{place}.init_cfg.checkpoint': node['init_cfg'].get('checkpoint')
             for place, node in walk(cfg.model, 'model') if is_pretrained(node.get('init_cfg'))}
    hook = (cfg.get('default_hooks') or {}).get('pretrained_backbone') or {}
    named['pretrained_backbone.checkpoint'] = hook.get('checkpoint')
    for place, path in named.items():
        if isinstance(path, str) and '://' not in path and \
                not os.path.isfile(os.path.expanduser(path)):
            findings.error(f'checkpoint not found: {path} ({place})')
