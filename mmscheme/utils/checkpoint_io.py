"""Read and write checkpoints without running code from them.

torch's weights-only loading knows tensors and plain containers. A training checkpoint
of mmengine holds more:

* Objects: ``HistoryBuffer``, whose pickle calls ``getattr``, and numpy arrays. They are
  read into inert stand-ins, checked, and then built anew. :func:`make_plain` turns
  them into tensors and numbers before a checkpoint is written.
* Python code as text, the config, which ``Runner.resume`` and the inferencers execute.
  It is dropped on reading, because a config is given by its path.

Weights are also read and written as safetensors, which hold nothing else, and read from the
Hugging Face Hub.
"""
import hashlib
import io
import os
import pickle
from collections import OrderedDict
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Sequence,
    Tuple,
    Union,
)
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as stock
from torch import nn

from .hub import download
from .output_files import write_bytes
from .safetensors_io import SUFFIX, is_safetensors, read_safetensors, safetensors_bytes

__all__ = ['CACHED_SOURCES', 'StateDictDiff', 'check_checkpoint_name', 'checkpoint_bytes',
           'compare_state_dicts', 'find_weights', 'load_checkpoint', 'load_matching', 'make_plain',
           'read_weights', 'restore_plain', 'save_checkpoint', 'use_safe_checkpoints']

#: The starts of addresses whose files are kept on the disk: reading them twice costs little.
CACHED_SOURCES = ('hf://', 'http://', 'https://')

_HISTORY_KEYS = {'log_history', 'count_history', 'max_length'}


class _StandIn:
    """The stand-in for a class or function that a pickle names; it keeps its arguments."""

    def __init__(self, *args: Any) -> None:
        self.args = args
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def build(self) -> Any:
        """Build the object that was meant, from checked parts."""
        raise ValueError(f'{type(self).__name__[1:]} out of place')


class _DType(_StandIn):

    def build(self) -> np.dtype:
        dtype = np.dtype(str(self.args[0]))
        if dtype.kind not in 'biufcSU':
            raise ValueError(f'array of {dtype}')
        order = self.state[1] if self.state else '='
        return dtype.newbyteorder('>') if order == '>' else dtype


class _Array(_StandIn):

    def build(self) -> np.ndarray:
        _, shape, dtype, fortran, data = self.state
        data = data.encode('latin1') if isinstance(data, str) else data
        flat = np.frombuffer(data, dtype.build())
        return flat.reshape(shape, order='F' if fortran else 'C').copy()


class _Scalar(_StandIn):

    def build(self) -> np.generic:
        dtype, data = self.args
        data = data.encode('latin1') if isinstance(data, str) else data
        return np.frombuffer(data, dtype.build(), count=1)[0]


class _History(_StandIn):

    def build(self) -> HistoryBuffer:
        return HistoryBuffer(_build(self.state['_log_history']),
                             _build(self.state['_count_history']), int(self.state['max_length']))


class _Attribute(_StandIn):
    """``getattr(HistoryBuffer, 'mean')``: part of a history, never used."""


class _Namespace(_StandIn):
    """The command line that timm's trainer keeps in its checkpoints."""

    def build(self) -> Dict[str, Any]:
        return dict(_build(self.state or {}))


def _empty_bytes() -> bytes:
    """Return ``bytes()``, as empty data is pickled."""
    return b''


def _stand_ins() -> List[Tuple[Callable[..., Any], str]]:
    """Return the stand-ins for the names beyond torch's own list that a pickle may hold."""
    names: List[Tuple[Callable[..., Any], str]] = [
        (_History, 'mmengine.logging.history_buffer.HistoryBuffer'), (_Array, 'numpy.ndarray'),
        (_DType, 'numpy.dtype'), (_Attribute, 'builtins.getattr'), (_empty_bytes, 'builtins.bytes'),
        (_Namespace, 'argparse.Namespace')]
    # numpy 2 moved numpy.core to numpy._core; files of both versions are around.
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        names += [(_Array, f'{module}._reconstruct'), (_Scalar, f'{module}.scalar')]
    return names


def _build(value: Any) -> Any:
    """Replace the stand-ins in nested containers; dicts and lists are changed in place."""
    if isinstance(value, _StandIn):
        return value.build()
    if isinstance(value, dict):
        for key in value:
            value[key] = _build(value[key])
    elif isinstance(value, list):
        value[:] = [_build(v) for v in value]
    elif type(value) is tuple:
        return tuple(_build(v) for v in value)
    return value


@contextmanager
def _weights_only() -> Iterator[None]:
    """Make every ``torch.load`` weights-only, whatever its caller asks for."""
    switches = ('TORCH_FORCE_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD')
    before = {name: os.environ.pop(name, None) for name in switches}
    os.environ[switches[0]] = '1'
    # Only torch's own types stay allowed, because some builds of mmengine allow getattr.
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(
        [a for a in allowed if getattr(a, '__module__', '').startswith('torch.')] + _stand_ins())
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(allowed)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _drop_config(checkpoint: Any) -> None:
    """Remove the text of the config, wherever mmengine would execute it."""
    if not isinstance(checkpoint, dict):
        return
    hub = checkpoint.get('message_hub')
    info = hub.get('runtime_info') if isinstance(hub, dict) else None
    for holder, keys in ((checkpoint.get('meta'), ('config', 'cfg')), (info, ('cfg', ))):
        for key in keys:
            if isinstance(holder, dict):
                holder.pop(key, None)


def load_from_local(filename: str, map_location: Any = None, mmap: bool = False) -> Any:
    """Load as mmengine's function of this name, without the fall-back of its forks.

    Reads safetensors too.
    """
    filename = os.path.expanduser(filename)
    if not os.path.isfile(filename):
        raise FileNotFoundError(filename)
    if is_safetensors(filename):
        return read_safetensors(filename, map_location)
    return torch.load(filename, map_location=map_location, weights_only=True, mmap=mmap)


def load_from_http(filename: str, map_location: Any = None) -> Any:
    """Load as mmengine's function of this name, which reads no safetensors."""
    name = Path(urlparse(filename).path).name
    if not name.endswith(SUFFIX):
        return stock.load_from_http(filename, map_location=map_location)
    # Half of all such files are named model.safetensors.
    name = f'{hashlib.sha256(filename.encode()).hexdigest()[:8]}-{name}'
    target = Path(torch.hub.get_dir(), 'checkpoints', name)
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(filename, str(target), progress=False)
    return load_from_local(str(target), map_location)


def load_from_hub(filename: str, map_location: Any = None) -> Any:
    """Load ``hf://OWNER/NAME[@REVISION][/FILE]``; see :func:`mmscheme.utils.hub.download`."""
    return load_from_local(download(filename), map_location)


class _Unreadable(ValueError):
    """The line of a guarded loader."""


def _guarded(loader: Callable[..., Any]) -> Callable[..., Any]:
    """Make a loader of mmengine read weights only, with errors of one line."""

    @wraps(loader)
    def load(filename: str, map_location: Any = None) -> Any:
        try:
            with _weights_only():
                checkpoint = loader(filename, map_location=map_location)
            checkpoint = _build(checkpoint)
        except FileNotFoundError:
            raise FileNotFoundError(f'checkpoint not found: {filename}') from None
        except _Unreadable:
            raise
        except pickle.UnpicklingError as e:
            raise _Unreadable(
                f'checkpoint refused: {filename} holds more than weights and could run code '
                f'when read ({_cause(e)})') from None
        except Exception as e:  # whatever a damaged file makes a reader raise
            raise _Unreadable(f'not a readable checkpoint: {filename} ({_cause(e)})') from None
        _drop_config(checkpoint)
        return checkpoint

    return load


def _cause(error: BaseException) -> str:
    """Return the sentence of torch's long explanations that names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
    marker = 'WeightsUnpickler error:'
    text = next((line.split(marker)[1] for line in lines if marker in line), lines[0])
    return text.strip().split('. ')[0].rstrip('.')


def load_checkpoint(filename: str, map_location: Any = None, mmap: bool = False) -> Any:
    """Read a checkpoint without running code from it.

    Args:
        filename: Path of the file, ``hf://OWNER/NAME[@REVISION][/FILE]``, or a URL that mmengine
            reads. The file may be safetensors.
        map_location: As in :func:`torch.load`.
        mmap: As in :func:`torch.load`, for files; values that nobody looks at are not read.

    Returns:
        The content of the file, without the text of a config.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a checkpoint, or holds objects other than tensors,
            numbers, text, arrays, containers of them and mmengine's log history.
    """
    loaders = dict(hf=load_from_hub, http=load_from_http, https=load_from_http)
    scheme, remote, _ = filename.partition('://')
    loader = (loaders.get(scheme, CheckpointLoader.load_checkpoint) if remote else
              partial(load_from_local, mmap=mmap))
    return _guarded(loader)(filename, map_location)


def find_weights(content: Any) -> Dict[str, torch.Tensor]:
    """Return the weights in a training checkpoint (OpenMMLab, timm) or plain state dict.

    Returns:
        Tensors by key; the prefix ``module.`` of a wrapped model is taken off.

    Raises:
        ValueError: There are none.
    """
    weights = content
    for key in ('state_dict', 'model'):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            weights = content[key]
            break
    if not isinstance(weights, dict) or not any(isinstance(v, torch.Tensor)
                                                for v in weights.values()):
        found = sorted(map(str, content))[:5] if isinstance(content, dict) \
            else type(content).__name__
        raise ValueError(f'expected a checkpoint with tensors by key, found {found}')
    return {k.removeprefix('module.'): v for k, v in weights.items()
            if isinstance(v, torch.Tensor) and isinstance(k, str)}


def read_weights(filename: str) -> Tuple[Dict[str, torch.Tensor], Dict[str, Any]]:
    """Read the weights of a checkpoint, and its ``meta``, which may be empty.

    Raises:
        FileNotFoundError, ValueError: The message names the file.
    """
    content = load_checkpoint(filename, map_location='cpu')
    try:
        weights = find_weights(content)
    except ValueError as e:
        raise ValueError(f'{filename}: {e}') from None
    meta = content.get('meta')
    return weights, meta if isinstance(meta, dict) else {}


class StateDictDiff(NamedTuple):
    """The differences between a model's state dict and that of a checkpoint.

    Attributes:
        missing: Keys of the model alone.
        unexpected: Keys of the checkpoint alone.
        mismatched: Keys of both whose values do not fit, each with a sentence that says why.
        fraction: Share of the model's values that the checkpoint has, in [0, 1].
    """
    missing: List[str]
    unexpected: List[str]
    mismatched: Dict[str, str]
    fraction: float

    def problems(self, most: int = 2) -> List[str]:
        """Return a line for each kind of difference; none where both agree.

        Args:
            most: Number of keys of a kind to name; the rest is counted.
        """
        lines = [f'{kind} {", ".join(keys[:most])}' + _more(keys, most)
                 for kind, keys in (('missing', self.missing), ('unexpected', self.unexpected))
                 if keys]
        shown = list(self.mismatched.values())
        return lines + ([', '.join(shown[:most]) + _more(shown, most)] if shown else [])


def _more(items: Sequence[Any], most: int) -> str:
    return f' and {len(items) - most} more' if len(items) > most else ''


def compare_state_dicts(own: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]
                        ) -> StateDictDiff:
    """Compare keys, shapes and kinds of values of a model's and a checkpoint's state dict."""
    missing = [k for k in own if k not in other]
    mismatched = {k: f'{k} is {_form(other[k], v)}, expected {_form(v, other[k])}'
                  for k, v in own.items() if k in other and not _fits(v, other[k])}
    total = sum(v.numel() for v in own.values())
    lost = sum(own[k].numel() for k in (*missing, *mismatched))
    return StateDictDiff(missing, [k for k in other if k not in own], mismatched,
                         1 - lost / max(1, total))


def load_matching(module: nn.Module, weights: Mapping[str, torch.Tensor]) -> StateDictDiff:
    """Copy the weights that fit into a module.

    Returns:
        The differences, after the module has renamed the keys that it knows.
    """
    own = module.state_dict()
    mismatched = compare_state_dicts(own, weights).mismatched
    # All the rest is handed over: a module may know what to do with other keys than its own.
    result = module.load_state_dict({k: v for k, v in weights.items() if k not in mismatched},
                                    strict=False)
    missing = [k for k in result.missing_keys if k not in mismatched]
    sizes = {k: p.numel() for k, p in module.named_parameters()}
    lost = sum(sizes.get(k, 0) for k in (*missing, *mismatched))
    return StateDictDiff(missing, list(result.unexpected_keys), mismatched,
                         1 - lost / max(1, sum(sizes.values())))


def _fits(own: torch.Tensor, other: torch.Tensor) -> bool:
    """Return True if one can take all values of the other, and not only a part of each."""
    return (own.shape == other.shape and own.is_floating_point() == other.is_floating_point()
            and not other.is_complex() and not other.is_quantized and other.layout == own.layout
            and other.device.type != 'meta')


def _form(value: torch.Tensor, other: torch.Tensor) -> str:
    if value.shape != other.shape:
        return str(tuple(value.shape))
    kind = str(value.dtype).replace('torch.', '')
    return f'{kind} on {value.device.type}' if value.layout == torch.strided else \
        f'{kind} in {str(value.layout).replace("torch.", "")}'


def use_safe_checkpoints() -> None:
    """Make mmengine read all checkpoints of this process as :func:`load_checkpoint` does.

    Covers ``load_from``, ``resume``, ``init_cfg`` and the inferencers of every
    framework on mmengine, for files, URLs and mmengine's other sources, and adds safetensors and
    ``hf://``.
    """
    for loader, prefixes in (
        (load_from_local, ('', )),
        (load_from_hub, ('hf://', )),
        (load_from_http, ('http://', 'https://')),
        (stock.load_from_pavi, ('pavi://', )),
        (stock.load_from_ceph, (r'(\S+\:)?s3://', r'(\S+\:)?petrel://')),
        (stock.load_from_torchvision, ('modelzoo://', 'torchvision://')),
        (stock.load_from_openmmlab, ('open-mmlab://', 'openmmlab://')),
        (stock.load_from_mmcls, ('mmcls://', )),
    ):
        CheckpointLoader.register_scheme(prefixes, _guarded(loader), force=True)


def check_checkpoint_name(target: Path) -> None:
    """Refuse a name that is none for a checkpoint.

    Raises:
        ValueError: It ends neither with ``.pth`` nor with ``.safetensors``.
    """
    if target.suffix not in ('.pth', SUFFIX):
        raise ValueError(f'expected a name *.pth or *{SUFFIX} to write, found {target}')


def checkpoint_bytes(content: Dict[str, Any], suffix: str) -> bytes:
    """Return the file for a checkpoint; its bytes do not depend on its name.

    Args:
        content: ``state_dict`` and maybe ``meta``, or weights alone.
        suffix: ``.safetensors`` for that format, any other for that of ``torch.save``.

    Raises:
        ValueError: safetensors cannot hold the weights.
    """
    if suffix == SUFFIX:
        return safetensors_bytes(content)
    buffer = io.BytesIO()  # because torch writes the name of a file into it
    torch.save(content, buffer)
    return buffer.getvalue()


def save_checkpoint(content: Dict[str, Any], target: Union[str, Path]) -> None:
    """Write a checkpoint in the format of its suffix, whole or not at all."""
    write_bytes(target, checkpoint_bytes(content, Path(target).suffix))


def make_plain(value: Any) -> Any:
    """Copy containers with their content in a form that weights-only loading accepts.

    ``HistoryBuffer`` becomes a dict of tensors, numpy arrays become tensors and numpy numbers
    Python's. Functions in dicts, which the state of some schedulers holds, are left out. The rest
    stays as it is.
    """
    if isinstance(value, HistoryBuffer):
        log, count = value.data
        return dict(log_history=torch.as_tensor(np.asarray(log, dtype=np.float64)),
                    count_history=torch.as_tensor(np.asarray(count, dtype=np.float64)),
                    max_length=value.max_length)
    if isinstance(value, dict):
        plain = ((k, make_plain(v)) for k, v in value.items()
                 if not isinstance(v, (FunctionType, MethodType, BuiltinFunctionType)))
        return OrderedDict(plain) if isinstance(value, OrderedDict) else dict(plain)
    if isinstance(value, (list, tuple)):
        return (list if isinstance(value, list) else tuple)(make_plain(v) for v in value)
    if isinstance(value, np.ndarray) and value.dtype.kind in 'biufc':
        return torch.as_tensor(value)
    if isinstance(value, np.generic):
        return value.item()
    return value


def restore_plain(log_scalars: Dict[str, Any]) -> Dict[str, Union[HistoryBuffer, Any]]:
    """Return ``log_scalars`` with the ``HistoryBuffer`` that :func:`make_plain` took apart."""
    return {
        name: HistoryBuffer(v['log_history'].cpu().numpy(), v['count_history'].cpu().numpy(),
                            v['max_length'])
        if isinstance(v, dict) and set(v) == _HISTORY_KEYS else v
        for name, v in log_scalars.items()
    }
