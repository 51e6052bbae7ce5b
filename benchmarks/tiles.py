"""Time the Triton kernels with each of several tiles, at the stages of S12: how the table of
``mmscheme.ops.triton_mlp.tiles`` came about. Needs a GPU, torch and Triton alone.

    python benchmarks/tiles.py --json tiles.json
"""
import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any, Callable, Dict, Iterator, Tuple

import torch
import torch.nn.functional as F
import triton

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmscheme.ops import triton_mlp as kernels

GROUPS, CALLS, ROUNDS = 4, 10, 7
# Tokens, hidden channels, tiles a program, warps, stages.
TRIED = [(64, 32, 1, 4, 2), (64, 32, 1, 4, 3), (64, 64, 1, 4, 1), (64, 64, 1, 4, 2),
         (64, 64, 1, 4, 3), (64, 128, 1, 4, 2), (64, 128, 4, 4, 2), (128, 64, 1, 4, 2),
         (128, 64, 1, 8, 2), (128, 64, 1, 8, 3), (128, 128, 1, 8, 2), (32, 64, 1, 4, 2),
         (32, 32, 1, 4, 1)]


def microseconds(call: Callable[[], Any]) -> float:
    """Return the median time of a call, recorded as a CUDA graph of several."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            call()
    graph.replay()
    times = []
    for _ in range(ROUNDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / CALLS * 1e3)
    return median(times)


def stage(width: int, tokens: int) -> Iterator[Tuple[str, Any, float]]:
    """Time all kernels of a stage with all tiles, and the dense FFN beside them."""
    hidden, channels = 8 * width, GROUPS * width

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device='cuda', dtype=torch.bfloat16)
    x, grad, b1, b2 = draw(1, tokens, channels), draw(1, tokens, channels), draw(
        GROUPS * hidden), draw(channels)
    w1, w2 = draw(GROUPS * hidden, width) * width**-.5, draw(channels, hidden) * hidden**-.5
    for name in ('_forward_kernel', '_input_kernel', '_weight_kernel'):
        kernel = getattr(kernels, name)
        for m, h, t, warps, stages in TRIED:
            forward = kernel is kernels._forward_kernel
            if h > hidden or (t > 1 and not forward):
                continue
            tile: Dict[str, int] = dict(BLOCK_M=m, BLOCK_H=h, num_warps=warps, num_stages=stages,
                                        **(dict(TILES=t) if forward else {}))
            before = kernels.tiles
            kernels.tiles = lambda *args, tile=tile: [tile]  # type: ignore[assignment]
            kernels._fitting.clear()
            try:
                if forward:
                    found = microseconds(lambda: kernels.forward(
                        x, w1, b1, w2, b2, GROUPS, 'gelu', None, None, None))
                else:
                    found = _one_of(kernel, lambda: kernels.backward(
                        grad, x, w1, b1, w2, GROUPS, 'gelu', None, None))
                yield name, [m, h, t, warps, stages], found
            except triton.runtime.errors.OutOfResources:
                continue
            finally:
                kernels.tiles = before
    full1, full2 = draw(4 * channels, channels), draw(channels, 4 * channels)
    bias, rows = draw(4 * channels), x[0]
    half1, half2 = full1[:2 * channels], full2[:, :2 * channels].contiguous()
    with torch.no_grad():
        yield 'dense e4, tokens', None, microseconds(
            lambda: F.linear(F.gelu(F.linear(rows, full1, bias)), full2, b2))
        yield 'dense e2, tokens', None, microseconds(
            lambda: F.linear(F.gelu(F.linear(rows, half1, bias[:2 * channels])), half2, b2))


def _one_of(kernel: Any, backward: Callable[[], Any]) -> float:
    """Time one kernel of the backward pass without the others."""
    launch = kernels._launch
    recorded = {}

    def record(which: Any, *args: Any) -> None:
        recorded[which] = args
    kernels._launch = record  # type: ignore[assignment]
    try:
        backward()
    finally:
        kernels._launch = launch
    return microseconds(lambda: launch(kernel, *recorded[kernel]))


def main() -> None:
    """Print and keep the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--json', metavar='FILE', default='tiles.json')
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error('torch finds no GPU')
    found = []
    for index, dims in enumerate((64, 128, 320, 512)):
        for kernel, tile, us in stage(dims // GROUPS, 64 * (56 >> index)**2):
            found.append(dict(stage=index, kernel=kernel, tile=tile, microseconds=us))
            print(f'stage {index} {kernel:18}{tile!s:24}{us:9.1f} us', flush=True)
    Path(args.json).write_text(json.dumps(dict(
        device=torch.cuda.get_device_name(), torch=torch.__version__, triton=triton.__version__,
        times=found), indent=1))


if __name__ == '__main__':
    main()
