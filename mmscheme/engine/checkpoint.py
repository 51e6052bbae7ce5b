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
import os.path as osp
import pickle
from collections import OrderedDict
from typing import Any, Callable, Dict, List, Union

import numpy as np
import torch
from mmengine.dist import barrier as dist_barrier
from mmengine.dist import get_dist_info, master_only
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

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


def load_checkpoint(filename: str, map_location: Any = None) -> Dict[str, Any]:
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
    filename = osp.expanduser(filename)
    if not osp.isfile(filename):
        raise FileNotFoundError(f'checkpoint not found: {filename}')
    try:
        with torch.serialization.safe_globals(_safe_globals()):
            checkpoint = torch.load(filename, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as e:
        reason = _first_sentence(e)
        raise ValueError(
            f'checkpoint refused: {filename} holds more than weights and could run code when '
            f'read ({reason})') from None
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as e:
        raise ValueError(f'not a readable checkpoint: {filename} ({_first_sentence(e)})') from None
    if isinstance(checkpoint, dict) and isinstance(checkpoint.get('meta'), dict):
        checkpoint['meta'].pop('config', None)
    return checkpoint


def _first_sentence(error: BaseException) -> str:
    """The part of torch's long explanations that names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = next((line for line in lines if 'WeightsUnpickler error' in line), None)
    text = cause.split('WeightsUnpickler error:')[-1] if cause else (lines or [repr(error)])[0]
    return text.strip().split('. ')[0].rstrip('.')


def _load_from_url(filename: str, map_location: Any = None) -> Dict[str, Any]:
    """Downloads into torch's hub cache, once, and reads the file from there."""
    folder = osp.join(torch.hub.get_dir(), 'checkpoints')
    path = osp.join(folder, osp.basename(filename.split('?')[0]))

    @master_only
    def download() -> None:
        os.makedirs(folder, exist_ok=True)
        if not osp.exists(path):
            torch.hub.download_url_to_file(filename, path, progress=True)

    download()
    if get_dist_info()[1] > 1:
        dist_barrier()
    return load_checkpoint(path, map_location)


def register_safe_loaders() -> None:
    """Makes mmengine read local files and URLs through :func:`load_checkpoint`.

    Covers ``load_from``, ``resume``, ``init_cfg`` and the inferencers, in every
    framework on mmengine.
    """
    CheckpointLoader.register_scheme('', load_checkpoint, force=True)
    CheckpointLoader.register_scheme(('http://', 'https://'), _load_from_url, force=True)


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
