"""Checks of the checkpoints that a run will read."""
import os
from typing import Any, Dict, List, Optional

import torch
from mmengine import Config
from torch import Tensor, nn

from mmscheme.utils.checkpoint_io import load_checkpoint
from mmscheme.utils.config_query import is_pretrained

from .findings import Findings

__all__ = ['check_checkpoint', 'check_named_files']

# What mmengine's Runner.resume looks up.
_STATE = ('meta', 'message_hub', 'optimizer')

# Share of a model's values below which a checkpoint is of something else.
_LEAST = 0.01


def check_checkpoint(path: str, model: Optional[nn.Module], use: str, findings: Findings) -> None:
    """Reads a checkpoint as the run will, and compares it with the model.

    Args:
        path: Of the file; an address is left to the run.
        model: The model, or None where it cannot be built. Its weights are replaced.
        use: ``'test'`` or ``'resume'``, where all weights must fit, or ``'load_from'``, where
            some must.
        findings: Where faults and doubts are added.
    """
    if '://' in path:
        return
    if os.path.isdir(path):
        findings.error(f'checkpoint not found: {path} is a folder; name a file *.pth in it')
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
    entries = content.get('state_dict', content)
    weights = {k.removeprefix('module.'): v for k, v in entries.items() if isinstance(v, Tensor)}
    bad = [k for k, v in weights.items() if v.is_floating_point() and not _finite(v)]
    if bad:
        findings.error(f'{path}: {len(bad)} weights are not finite, the first: {bad[0]}; use an '
                       'earlier checkpoint')
    if use == 'resume':
        _check_state(path, content, findings)
    if model is not None:
        _compare(path, weights, model, use, findings)


def _odd_entries(content: Dict[Any, Any], model: Optional[nn.Module]) -> str:
    """The first entry that mmengine, which takes all there is, cannot load."""
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


def _compare(path: str, weights: Dict[str, Tensor], model: nn.Module, use: str,
             findings: Findings) -> None:
    own = model.state_dict()
    other = [k for k in own if k in weights and _differ(own[k], weights[k])]
    try:
        result = model.load_state_dict({k: v for k, v in weights.items() if k not in other},
                                       strict=False)
    except Exception as e:
        findings.error(f'{path}: not a checkpoint of this config: {e}')
        return
    missing = [k for k in result.missing_keys if k not in other]
    lost = set(other) | set(missing)
    share = (sum(v.numel() for k, v in own.items() if k not in lost)
             / max(1, sum(v.numel() for v in own.values())))
    problems = [_some('missing', missing)] if missing else []
    problems += [f'{k} is {_form(weights[k], own[k])}, expected {_form(own[k], weights[k])}'
                 for k in other[:2]]
    if len(other) > 2:
        problems.append(f'{len(other) - 2} more of another shape')
    if not problems and not result.unexpected_keys:
        return
    if result.unexpected_keys:
        problems.append(_some('unexpected', list(result.unexpected_keys)))
    text = f'not a checkpoint of this config: {"; ".join(problems)}'
    if use != 'load_from' and (missing or other):
        findings.error(f'{path}: {text}')
    elif share < _LEAST:
        findings.error(f'{path}: {text}; {share:.1%} of the model would be loaded')
    elif missing or other:
        findings.warn(f'{path}: {share:.1%} of the model is in it, the rest starts anew: '
                      f'{"; ".join(problems)}')
    else:
        findings.warn(f'{path}: {problems[-1]}; the model has no place for them')


def _differ(own: Tensor, other: Tensor) -> bool:
    """Whether one cannot take the values of the other, or only a part of each."""
    return (own.shape != other.shape or own.is_floating_point() != other.is_floating_point()
            or other.is_complex() or other.is_quantized or other.layout != own.layout
            or other.device.type == 'meta')


def _form(value: Tensor, other: Tensor) -> str:
    if value.shape != other.shape:
        return str(tuple(value.shape))
    kind = str(value.dtype).replace('torch.', '')
    return f'{kind} on {value.device.type}' if value.layout == torch.strided else \
        f'{kind} in {str(value.layout).replace("torch.", "")}'


def _some(kind: str, keys: List[str]) -> str:
    more = f' and {len(keys) - 2} more' if len(keys) > 2 else ''
    return f'{kind} {", ".join(keys[:2])}{more}'


def check_named_files(cfg: Config, findings: Findings) -> None:
    """Looks for the files that ``init_cfg`` and the hook for pretrained backbones name."""
    named: List[Any] = []

    def walk(node: Any, place: str) -> None:
        if isinstance(node, dict):
            init = node.get('init_cfg')
            if init and is_pretrained(init):
                named.append((f'{place}.init_cfg.checkpoint', init.get('checkpoint')))
            for key, child in node.items():
                walk(child, f'{place}.{key}')
        elif isinstance(node, (list, tuple)):
            for child in node:
                walk(child, place)

    walk(cfg.model, 'model')
    hook = (cfg.get('default_hooks') or {}).get('pretrained_backbone') or {}
    named.append(('pretrained_backbone.checkpoint', hook.get('checkpoint')))
    for place, path in named:
        if isinstance(path, str) and '://' not in path and \
                not os.path.isfile(os.path.expanduser(path)):
            findings.error(f'checkpoint not found: {path} ({place})')
