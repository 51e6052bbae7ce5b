"""Take the fastest of several ways to compute the same, by timing them once a kind of input.

A kind is what decides about speed: dtype, widths, groups, activation, the power of two above the
number of tokens, the order of the memory and whether there is a backward pass. A call costs the
host and the device time, and what counts is the larger; in a CUDA graph it is that of the device
alone, so two choices are made. They are kept for the process and on the disk, beside Triton's
cache, for this GPU and these versions.
"""
import functools
import json
import logging
import os
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, List, NamedTuple, Tuple

import torch
import torch.distributed as dist
from torch import Tensor

from mmscheme.utils.output_files import write_bytes
from mmscheme.version import __version__

__all__ = ['Cost', 'apart_from_hooks', 'choose_fastest', 'describe', 'synchronize', 'time_call']

Function = Callable[[Tensor], Tensor]

_CALLS, _ROUNDS = 5, 3
# Clock cycles that keep a GPU busy while the calls are put into its queue, some milliseconds.
_BUSY = 10_000_000
_WAIT = timedelta(minutes=1)
_logger = logging.getLogger('mmscheme')
# By kind: what is fastest call by call, a slash, and what is in a CUDA graph.
_chosen: Dict[Tuple[Any, ...], str] = {}


class Cost(NamedTuple):
    """Seconds that a call takes on the host and on the device."""
    host: float
    device: float


def choose_fastest(x: Tensor, parts: Dict[str, Any],
                   alternatives: Callable[[], Dict[str, Function]], stated: str) -> str:
    """Return the name of the fastest alternative for inputs of this kind.

    Nothing is timed in a compiled model or under ``torch.use_deterministic_algorithms``, which
    take what is stated, nor while a CUDA graph is captured, which takes what is known. In a
    distributed run the first process that meets a kind measures and all others take its choice,
    because processes that round differently are hard to compare.

    Args:
        x: The input.
        parts: Weights and groups, see :func:`mmscheme.ops.block_diagonal_mlp`.
        alternatives: Make the functions of the input by name. The one called ``'plain'`` is what
            the others are compared with.
        stated: The choice where nothing is known and nothing may be measured.
    """
    if torch.compiler.is_compiling() or torch.are_deterministic_algorithms_enabled():
        return stated
    training = torch.is_grad_enabled() and (x.requires_grad or parts['w1'].requires_grad)
    kind = _kind(x, parts, training)
    capturing = x.is_cuda and torch.cuda.is_current_stream_capturing()
    if kind not in _chosen:
        if capturing:
            return stated
        key = describe(kind)
        _chosen[kind] = _agree(key, f'{stated}/{stated}', lambda: _read(key) or _measure(
            key, x, parts, alternatives(), training))
    return _chosen[kind].split('/')[capturing]


def _kind(x: Tensor, parts: Dict[str, Any], training: bool) -> Tuple[Any, ...]:
    channels = parts['w2'].shape[0]
    dtype = x.dtype
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
    return (channels, parts['w1'].shape[0], parts['groups'], parts['act'], dtype, x.dim(),
            (x.numel() // channels - 1).bit_length(), x.stride(1 if x.dim() == 4 else -1) == 1,
            training)


def describe(kind: Tuple[Any, ...]) -> str:
    """Return a kind in words; they are its name on the disk and between processes."""
    channels, hidden, groups, act, dtype, dim, size, last, training = kind
    return (f'{channels} -> {hidden} channels, {groups} groups, {act}, {str(dtype)[6:]}, {dim}-D, '
            f'up to 2^{size} tokens, channels {"last" if last else "first"}, '
            f'{"training" if training else "inference"}')


def _agree(key: str, stated: str, decide: Callable[[], str]) -> str:
    """Return the choice that all processes of a run make, whichever of them is first.

    Where that one does not answer, which may be because it waits for this one, it is ``stated``.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return decide()
    store = dist.distributed_c10d._get_default_store()
    name, me = f'mmscheme: {key}', str(dist.get_rank())
    # Nobody waits for a process that may never see such an input.
    if store.compare_set(f'{name}: by', '', me).decode() == me:
        choice = decide()
        store.set(name, choice)
        return choice
    try:
        store.wait([name], _WAIT)
    except RuntimeError as e:
        _logger.warning('block-diagonal FFN, %s: %s, because another process did not answer: %s',
                        key, stated.split('/')[0], (str(e).splitlines() or [''])[0])
        return stated
    return store.get(name).decode()


def apart_from_hooks() -> ContextManager[Any]:
    """Keep a backward pass inside a forward pass apart from the hooks around it.

    Those of a checkpointed block would compute the block again, and end that at its first need.
    """
    return torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t)


def time_call(call: Callable[[], Any], device: torch.device) -> Cost:
    """Return what a call costs: the least of some rounds, of the host and of the device."""
    def round_() -> Cost:
        synchronize(device)
        start = time.perf_counter()
        if device.type != 'cuda':
            for _ in range(_CALLS):
                call()
            return Cost(*[(time.perf_counter() - start) / _CALLS] * 2)
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        # What lies in the queue already runs without gaps that are the host's. The function is
        # private but that of torch's own tests.
        torch.cuda._sleep(_BUSY)
        first.record()
        for _ in range(_CALLS):
            call()
        last.record()
        host = time.perf_counter() - start
        synchronize(device)
        return Cost(host / _CALLS, first.elapsed_time(last) / 1e3 / _CALLS)
    with torch.cuda.device_of(torch.empty(0, device=device)):
        call()
        return Cost(*map(min, zip(*(round_() for _ in range(_ROUNDS)))))


def synchronize(device: torch.device) -> None:
    """Wait for a GPU; on other devices there is nothing to wait for."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def _measure(key: str, x: Tensor, parts: Dict[str, Any], functions: Dict[str, Function],
             training: bool) -> str:
    x = x.detach()
    weights = [t for t in parts.values() if isinstance(t, Tensor) and t.requires_grad]
    if training:
        x.requires_grad_()

    def run(function: Function) -> List[Tensor]:
        with torch.set_grad_enabled(training), apart_from_hooks():
            y = function(x)
            if not training:
                return [y]
            return [y.detach(), *torch.autograd.grad(y, [x, *weights], y.detach())]

    costs: Dict[str, Cost] = {}
    expected: List[Tensor] = []
    for name in sorted(functions, key=lambda name: name != 'plain'):
        try:
            found = run(functions[name])
            if expected:
                error = _error(found, expected)
                if not error < (1e-2 if x.dtype == torch.float32 else 1e-1):
                    raise ValueError(f'it is off by {error:.1g}')
            elif name == 'plain':
                expected = found
            del found
            costs[name] = time_call(partial(run, functions[name]), x.device)
        except torch.cuda.OutOfMemoryError:
            # The others keep the hidden map; what was tried here must not end a run.
            torch.cuda.empty_cache()
        except Exception as e:  # whatever a compiler or driver raises
            text = (str(e).splitlines() or [''])[0]
            _logger.warning('block-diagonal FFN: %s is not used for %s: %s: %s', name, key,
                            type(e).__name__, text)
    if not costs:
        return 'plain/plain'
    eager = min(costs, key=lambda name: max(costs[name]))
    graph = min(costs, key=lambda name: costs[name].device)
    times = ', '.join(f'{name} {c.host * 1e3:.3f} and {c.device * 1e3:.3f}'
                      for name, c in costs.items())
    _logger.info('block-diagonal FFN, %s: %s, in a CUDA graph %s (ms on host and device: %s)', key,
                 eager, graph, times)
    _write(key, f'{eager}/{graph}')
    return f'{eager}/{graph}'


def _error(found: List[Tensor], expected: List[Tensor]) -> float:
    """Return the largest distance of two lists of tensors, relative to the largest value."""
    # torch's maximum, because Python's may leave out a NaN.
    return float(torch.stack([(a.float() - b.float()).abs().max()
                              / b.float().abs().max().clamp(min=1e-12)
                              for a, b in zip(found, expected)]).max())


@functools.cache
def _file() -> Path:
    """Return the file of what was measured on this GPU with these versions."""
    folder = os.environ.get('TRITON_CACHE_DIR') or os.path.expanduser('~/.triton/cache')
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else 'none'
    words = f'mmscheme-{__version__}-torch-{torch.__version__}-{device}'
    return Path(folder, f'{words.replace(" ", "_").replace("/", "_")}.json')


def _read(key: str) -> str:
    try:
        found = str(json.loads(_file().read_text()).get(key, ''))
    except (OSError, ValueError, AttributeError):
        return ''
    return found if found.count('/') == 1 else ''


def _write(key: str, choice: str) -> None:
    try:
        known = json.loads(_file().read_text()) if _file().is_file() else {}
        write_bytes(_file(), json.dumps({**known, key: choice}, indent=1).encode())
    except (OSError, ValueError, TypeError) as e:
        _logger.info('block-diagonal FFN: the choice is not kept, %s', e)
