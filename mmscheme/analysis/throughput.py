"""Times of alternatives, taken in turns, and the ceilings of the machine beside them."""
import ctypes
import gc
import os
import platform
import random
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Callable, Dict, List, NamedTuple, Optional

import torch
import torch.nn.functional as F

from mmscheme.ops.measured import synchronize

__all__ = ['OURS', 'Ceilings', 'Contest', 'Timing', 'ceilings', 'device_name', 'environment',
           'peak_memory', 'take_turns']

#: The name of ours in every contest.
OURS = 'ours'


class Timing(NamedTuple):
    """Times of one alternative.

    Attributes:
        seconds: Median over the rounds.
        spread: Distance of the quartiles, as a fraction of the median.
        fastest: The fastest round, in seconds.
        peak: Bytes that a call has beyond what was there before, at most; None where
            the system does not say.
    """
    seconds: float
    spread: float
    fastest: float
    peak: Optional[int]


class Ceilings(NamedTuple):
    """FLOPs a second in matrix products, bytes a second in copies."""
    flops: float
    bandwidth: float

    def floor(self, macs: float, bytes_: float) -> float:
        """Return the least time in seconds for these multiply-adds and bytes."""
        return max(2 * macs / self.flops, bytes_ / self.bandwidth)


class Contest(NamedTuple):
    """Alternatives for the same work.

    Attributes:
        name: Name of the work.
        runs: The alternatives by name; one is :data:`OURS`.
        macs, bytes_: Multiply-adds and bytes to and from memory that ours needs at least;
            None where they are not counted.
    """
    name: str
    runs: Dict[str, Callable[[], Any]]
    macs: Optional[float] = None
    bytes_: Optional[float] = None


def _seconds(run: Callable[[], Any], device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - start


def _resident(field: str) -> int:
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f'/proc/self/status has no {field}')


def peak_memory(run: Callable[[], Any], device: torch.device) -> Optional[int]:
    """Return the bytes that a call needs at its highest point beyond those in use before it."""
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    try:
        # Because memory that the allocator keeps for later would count as in use before.
        ctypes.CDLL('libc.so.6').malloc_trim(0)
        Path('/proc/self/clear_refs').write_text('5')
        before = _resident('VmRSS')
        run()
        return _resident('VmHWM') - before
    except OSError:
        return None


def take_turns(runs: Dict[str, Callable[[], Any]], device: torch.device, rounds: int = 7,
               seconds: float = 0.) -> Dict[str, Timing]:
    """Time alternatives in one process, one call of each a round.

    Args:
        runs: Alternatives by name.
        device: Where they run.
        rounds: Rounds after one that is not counted; each in another order, so that no
            alternative always follows the same other, whose memory it may have to wait for.
        seconds: Adds rounds until so much time has passed.

    Returns:
        Times by name, in the order of ``runs``.
    """
    peaks = {}
    for name, run in runs.items():
        run()
        peaks[name] = peak_memory(run, device)
    times: Dict[str, List[float]] = {name: [] for name in runs}
    order, shuffle = list(runs), random.Random(0).shuffle
    start, done = time.perf_counter(), 0
    while done < rounds or time.perf_counter() - start < seconds:
        shuffle(order)
        for name in order:
            times[name].append(_seconds(runs[name], device))
        done += 1
    found = {}
    for name in runs:
        middle = median(times[name])
        low, _, high = quantiles(times[name], n=4) if done > 1 else (middle, ) * 3
        found[name] = Timing(middle, (high - low) / middle, min(times[name]), peaks[name])
    return found


def ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Measure the machine: its fastest of several large matrix products and copies."""
    size = 8192 if device.type == 'cuda' else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    maps = a.view(16, -1, 1, size).permute(0, 3, 1, 2)
    products: List[Callable[[], Any]] = [lambda: a @ b]
    if device.type == 'cpu':
        products.append(lambda: F.conv2d(maps, b[:, :, None, None]))
    source = torch.empty(2**30 if device.type == 'cuda' else 2**27, dtype=torch.uint8,
                         device=device).zero_()
    target = torch.empty_like(source).zero_()
    with torch.no_grad():
        for product in products:
            product()
        fastest = min(_seconds(product, device) for product in products for _ in range(20))
        copy = min(_seconds(lambda: target.copy_(source), device) for _ in range(10))
    return Ceilings(2 * size**3 / fastest, 2 * source.numel() / copy)


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or of the processor."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    cpuinfo = Path('/proc/cpuinfo')
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((line.split(':')[1].strip() for line in lines if line.startswith('model name')),
                platform.processor() or platform.machine())


def environment(device: torch.device) -> Dict[str, Any]:
    """Return all that a time depends on: processor, threads, torch, load and allocator."""
    return dict(device=device_name(device), threads=torch.get_num_threads(),
                torch=torch.__version__,
                load=round(os.getloadavg()[0], 1) if hasattr(os, 'getloadavg') else None,
                allocator={k: v for k, v in os.environ.items()
                           if k.startswith('MALLOC_') or k == 'LD_PRELOAD'} or 'default')
