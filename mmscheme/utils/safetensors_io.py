"""Weights as safetensors: plain tensors, and the ``meta`` of a checkpoint as JSON."""
import json
from collections import OrderedDict
from typing import Any, Dict

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

__all__ = ['SUFFIX', 'is_safetensors', 'read_safetensors', 'safetensors_bytes']

SUFFIX = '.safetensors'
# The only key of the metadata: the library writes several in any order, and the hash in the name
# of a published file would follow it.
_META = 'mmscheme'


def is_safetensors(filename: str) -> bool:
    """Return True if a file has that suffix, or starts like one: a length, then JSON."""
    with open(filename, 'rb') as f:
        return filename.endswith(SUFFIX) or f.read(9)[8:] == b'{'


def read_safetensors(filename: str, map_location: Any = None) -> Dict[str, Any]:
    """Read a file as a checkpoint with ``state_dict`` and ``meta``, which may be empty.

    Args:
        filename: Path of the file.
        map_location: A device or its name; with any other the tensors are on the CPU.

    Raises:
        SafetensorError, ValueError: The file is damaged.
    """
    device = str(map_location) if isinstance(map_location, (str, torch.device)) else 'cpu'
    with safe_open(filename, 'pt', device=device) as f:
        weights = OrderedDict((key, f.get_tensor(key)) for key in f.keys())
        meta = json.loads((f.metadata() or {}).get(_META, '{}'))
    return dict(meta=_tuples(meta) if isinstance(meta, dict) else {}, state_dict=weights)


def _tuples(value: Any) -> Any:
    """Make tuples of lists without containers in them: JSON has none, and mmdet asks for them."""
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    if not isinstance(value, list):
        return value
    items = [_tuples(v) for v in value]
    return items if any(isinstance(v, (dict, list, tuple)) for v in items) else tuple(items)


def safetensors_bytes(content: Dict[str, Any]) -> bytes:
    """Return the file for ``state_dict`` and maybe ``meta`` of a checkpoint, or for weights alone.

    Raises:
        ValueError: There are weights that safetensors cannot hold, such as sparse ones.
    """
    weights = content.get('state_dict', content)
    meta = json.dumps(content.get('meta', {}), default=lambda v: v.tolist())
    try:
        # Copies, because weights that share memory are refused.
        return save({k: v.detach().clone(memory_format=torch.contiguous_format)
                     for k, v in weights.items()}, {_META: meta})
    except (KeyError, RuntimeError, NotImplementedError, SafetensorError) as e:
        raise ValueError(f'expected weights that safetensors can hold, found {e}') from None
