"""Reading and writing checkpoints without running code from them.

torch's weights-only loading knows tensors and plain containers. mmengine puts two
things more into a training checkpoint, which this module deals with:

* ``HistoryBuffer`` objects, whose pickle calls ``getattr``. :func:`make_plain` writes
  them as tensors; :func:`load_checkpoint` also reads the original form, with a
  ``getattr`` that knows nothing but the methods of ``HistoryBuffer``.
* ``meta['config']``, in old versions the text of the config, which ``Runner.resume``
  executes. It is dropped on reading.
"""
import os
import pickle
from collections import OrderedDict
from contextlib import contextmanager
from functools import wraps
from typing import Any, Callable, Dict, Iterator, List, Union

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as stock

__all__ = ['load_checkpoint', 'make_plain', 'register_safe_loaders', 'restore_plain']

_HISTORY_KEYS = {'log_history', 'count_history', 'max_length'}


def _history_buffer_method(owner: Any, name: str) -> Callable:
    """Stands for ``getattr`` in a pickle: gives the statistics of HistoryBuffer alone."""
    if owner is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
        return getattr(owner, name)
    raise pickle.UnpicklingError(f'it asks for getattr({owner!r}, {name!r})')


def _safe_globals() -> List[Any]:
    """What a pickle may name beyond torch's own list; none of it can run foreign code."""
    rebuild_array = np.empty(0).__reduce__()[0]
    rebuild_scalar = np.float64(0).__reduce__()[0]
    dtypes = {type(np.dtype(code)) for code in np.typecodes['All'] if code not in 'OV'}
    aliases: List[Any] = [HistoryBuffer, np.ndarray, np.dtype, *dtypes,
                          (_history_buffer_method, 'builtins.getattr')]
    # numpy 2 moved numpy.core to numpy._core; files of both versions are around.
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        aliases += [(rebuild_array, f'{module}._reconstruct'), (rebuild_scalar, f'{module}.scalar')]
    return aliases


@contextmanager
def _weights_only() -> Iterator[None]:
    """Makes every ``torch.load`` weights-only, whatever its caller asks for."""
    switches = ('TORCH_FORCE_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD')
    before = {name: os.environ.pop(name, None) for name in switches}
    os.environ[switches[0]] = '1'
    try:
        with torch.serialization.safe_globals(_safe_globals()):
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _guarded(loader: Callable[..., Any]) -> Callable[..., Any]:
    """One of mmengine's loaders, reading weights only and with errors of one line."""

    @wraps(loader)
    def load(filename: str, map_location: Any = None) -> Any:
        try:
            with _weights_only():
                checkpoint = loader(filename, map_location=map_location)
        except FileNotFoundError:
            raise FileNotFoundError(f'checkpoint not found: {filename}') from None
        except pickle.UnpicklingError as e:
            raise ValueError(
                f'checkpoint refused: {filename} holds more than weights and could run code '
                f'when read ({_cause(e)})') from None
        except (RuntimeError, EOFError, OSError, KeyError, ValueError) as e:
            raise ValueError(f'not a readable checkpoint: {filename} ({_cause(e)})') from None
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get('meta'), dict):
            checkpoint['meta'].pop('config', None)
        return checkpoint

    return load


def _cause(error: BaseException) -> str:
    """The sentence of torch's long explanations that names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
    marker = 'WeightsUnpickler error:'
    text = next((line.split(marker)[1] for line in lines if marker in line), lines[0])
    return text.strip().split('. ')[0].rstrip('.')


def load_checkpoint(filename: str, map_location: Any = None) -> Any:
    """Reads a checkpoint file without running code from it.

    Args:
        filename: Path of the file.
        map_location: As in :func:`torch.load`.

    Returns:
        What the file holds.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a checkpoint, or holds objects other than tensors,
            numbers, text, containers of them and mmengine's log history.
    """
    return _guarded(stock.load_from_local)(filename, map_location)


def register_safe_loaders() -> None:
    """Makes mmengine read all checkpoints as :func:`load_checkpoint` does.

    Covers ``load_from``, ``resume``, ``init_cfg`` and the inferencers of every
    framework on mmengine, for files, URLs and mmengine's other sources.
    """
    for loader, prefixes in (
        ('load_from_local', ('', )),
        ('load_from_http', ('http://', 'https://')),
        ('load_from_pavi', ('pavi://', )),
        ('load_from_ceph', (r'(\S+\:)?s3://', r'(\S+\:)?petrel://')),
        ('load_from_torchvision', ('modelzoo://', 'torchvision://')),
        ('load_from_openmmlab', ('open-mmlab://', 'openmmlab://')),
        ('load_from_mmcls', ('mmcls://', )),
    ):
        CheckpointLoader.register_scheme(prefixes, _guarded(getattr(stock, loader)), force=True)


def make_plain(value: Any) -> Any:
    """Copies containers, turning what weights-only loading refuses into what it reads.

    Args:
        value: Nested dicts, lists and tuples.

    Returns:
        The same with ``HistoryBuffer`` as a dict of tensors, numpy arrays as tensors
        and numpy numbers as Python's. Other objects stay as they are.
    """
    if isinstance(value, HistoryBuffer):
        log, count = value.data
        return dict(log_history=torch.as_tensor(np.asarray(log, dtype=np.float64)),
                    count_history=torch.as_tensor(np.asarray(count, dtype=np.float64)),
                    max_length=value.max_length)
    if isinstance(value, dict):
        return type(value)((k, make_plain(v)) for k, v in value.items()) if isinstance(
            value, OrderedDict) else {k: make_plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(make_plain(v) for v in value)
    if isinstance(value, np.ndarray) and value.dtype.kind in 'biufc':
        return torch.as_tensor(value)
    if isinstance(value, np.generic):
        return value.item()
    return value


def restore_plain(log_scalars: Dict[str, Any]) -> Dict[str, Union[HistoryBuffer, Any]]:
    """Rebuilds the ``HistoryBuffer`` objects that :func:`make_plain` took apart.

    Args:
        log_scalars: ``checkpoint['message_hub']['log_scalars']``.

    Returns:
        A new dict; entries of another form stay as they are.
    """
    return {
        name: HistoryBuffer(v['log_history'].numpy(), v['count_history'].numpy(), v['max_length'])
        if isinstance(v, dict) and set(v) == _HISTORY_KEYS else v
        for name, v in log_scalars.items()
    }
