"""Check mmscheme's operators for mmcv on a GPU, and time deformable attention there.

Each is compared with itself on the CPU, where the tests compare it with compiled mmcv, and must
not wait for the GPU. Needs torch and torchvision, no OpenMMLab. --device cpu is a dry run.
"""
import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmscheme.mmcv_ext import operators as ops

# Whose number of samples depends on the RoIs, which the host has to know.
WAITING = ('roi_align max adaptive', 'deform_roi_pool adaptive')


def draw(*shape: int) -> Tensor:
    """Return random numbers; the seed is set for each case."""
    return torch.randn(*shape)


def boxes(number: int) -> Tensor:
    """Return random boxes."""
    corners = torch.rand(number, 2) * 60
    return torch.cat([corners, corners + torch.rand(number, 2) * 30], 1)


def like(*tensors: Tensor) -> List[Tensor]:
    """Return zeros for results."""
    return [torch.zeros_like(x) for x in tensors]


def cases() -> Iterator[Tuple[str, Dict[str, Tensor], Callable[..., Any]]]:
    """Yield name, inputs, and a function of them that returns results."""
    rois = torch.cat([torch.randint(0, 2, (40, 1)).float(), boxes(40) - 5], 1).round()
    pooled = dict(x=draw(2, 8, 17, 19), rois=rois, grad=draw(40, 8, 3, 3))

    def roi_align(mode: int, ratio: int) -> Callable[..., Any]:
        def run(x: Tensor, rois: Tensor, grad: Tensor) -> List[Tensor]:
            out, y, across, back = like(grad, grad, grad, x)
            numbers = 3, 3, .25, ratio, mode, True
            ops.roi_align_forward(x, rois, out, y, across, *numbers)
            ops.roi_align_backward(grad, rois, y, across, back, *numbers)
            return [out, back]
        return run

    yield 'roi_align average', pooled, roi_align(1, 0)
    yield 'roi_align max', pooled, roi_align(0, 2)
    yield 'roi_align max adaptive', pooled, roi_align(0, 0)

    def roi_pool(x: Tensor, rois: Tensor, grad: Tensor) -> List[Tensor]:
        out, back = like(grad, x)
        places = torch.zeros_like(grad, dtype=torch.int)
        ops.roi_pool_forward(x, rois, out, places, 3, 3, .25)
        ops.roi_pool_backward(grad, rois, places, back, 3, 3, .25)
        return [out, back]

    yield 'roi_pool', pooled, roi_pool

    def deform_roi_pool(ratio: int) -> Callable[..., Any]:
        def run(x: Tensor, rois: Tensor, grad: Tensor, offset: Tensor) -> List[Tensor]:
            out, back, shift = like(grad, x, offset)
            numbers = 3, 3, .25, ratio, .1
            ops.deform_roi_pool_forward(x, rois, offset, out, *numbers)
            ops.deform_roi_pool_backward(grad, x, rois, offset, back, shift, *numbers)
            return [out, back, shift]
        return run

    shifted = dict(pooled, offset=draw(40, 2, 3, 3))
    yield 'deform_roi_pool', shifted, deform_roi_pool(2)
    yield 'deform_roi_pool adaptive', shifted, deform_roi_pool(0)

    def deform_conv(x: Tensor, weight: Tensor, offset: Tensor, grad: Tensor) -> List[Tensor]:
        out, back, shift, slope = like(grad, x, offset, weight)
        columns, numbers = x.new_empty(0), (3, 3, 1, 1, 1, 1, 1, 1, 1, 1)
        ops.deform_conv_forward(x, weight, offset, out, columns, columns, *numbers, 32)
        ops.deform_conv_backward_input(x, offset, grad, back, shift, weight, columns, *numbers, 32)
        ops.deform_conv_backward_parameters(x, offset, grad, slope, columns, columns, *numbers,
                                            1., 32)
        return [out, back, shift, slope]

    conv = dict(x=draw(2, 8, 9, 11), weight=draw(6, 8, 3, 3) / 8, offset=draw(2, 18, 9, 11),
                grad=draw(2, 6, 9, 11))
    yield 'deform_conv', conv, deform_conv

    def modulated(x: Tensor, weight: Tensor, offset: Tensor, grad: Tensor, mask: Tensor,
                  bias: Tensor) -> List[Tensor]:
        out, *backs = like(grad, x, weight, bias, offset, mask)
        empty, numbers = x.new_empty(0), (3, 3, 1, 1, 1, 1, 1, 1, 1, 1, True)
        ops.modulated_deform_conv_forward(x, weight, bias, empty, offset, mask, out, empty,
                                          *numbers)
        ops.modulated_deform_conv_backward(x, weight, bias, empty, offset, mask, empty, *backs,
                                           grad, *numbers)
        return [out, *backs]

    yield ('modulated_deform_conv', dict(conv, mask=draw(2, 9, 9, 11).sigmoid(), bias=draw(6)),
           modulated)
    yield 'ms_deform_attn', attention(2, [(7, 9), (4, 5)], 30, 4, 8), deformable_attention

    def sigmoid(x: Tensor, target: Tensor, weight: Tensor) -> List[Tensor]:
        out, back = like(x, x)
        ops.sigmoid_focal_loss_forward(x, target, weight, out, 2., .25)
        ops.sigmoid_focal_loss_backward(x, target, weight, back, 2., .25)
        return [out, back]

    def softmax(x: Tensor, target: Tensor, weight: Tensor) -> List[Tensor]:
        out, back = torch.zeros_like(x[:, 0]), torch.zeros_like(x)
        ops.softmax_focal_loss_forward(x.softmax(1), target, weight, out, 2., .25)
        ops.softmax_focal_loss_backward(x.softmax(1), target, weight, out * 0, back, 2., .25)
        return [out, back]

    losses = dict(x=draw(50, 7) * 3, target=torch.randint(0, 7, (50, )), weight=draw(7).sigmoid())
    yield 'sigmoid_focal_loss', losses, sigmoid
    yield 'softmax_focal_loss', losses, softmax

    def carafe(x: Tensor, masks: Tensor, grad: Tensor) -> List[Tensor]:
        out, back, slope = like(grad, x, masks)
        ops.carafe_naive_forward(x, masks, out, 3, 2, 2)
        ops.carafe_naive_backward(grad, x, masks, back, slope, 3, 2, 2)
        return [out, back, slope]

    yield 'carafe', dict(x=draw(2, 4, 5, 6), masks=draw(2, 18, 10, 12),
                         grad=draw(2, 4, 10, 12)), carafe

    def psamask(x: Tensor, grad: Tensor) -> List[Tensor]:
        out, back = like(grad, x)
        ops.psamask_forward(x, out, 0, 2, 4, 5, 3, 3, 1, 1)
        ops.psamask_backward(grad, back, 0, 2, 4, 5, 3, 3, 1, 1)
        return [out, back]

    yield 'psamask', dict(x=draw(2, 9, 4, 5), grad=draw(2, 20, 4, 5)), psamask


def attention(batch: int, levels: List[Tuple[int, int]], queries: int, heads: int, dims: int
              ) -> Dict[str, Tensor]:
    """Return inputs of deformable attention with 4 points."""
    shapes = torch.tensor(levels)
    starts = torch.cat([shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]])
    shape = batch, queries, heads, len(levels), 4
    return dict(value=draw(batch, int(shapes.prod(1).sum()), heads, dims), shapes=shapes,
                starts=starts, locations=torch.rand(*shape, 2) * 1.2 - .1,
                weights=torch.rand(shape), grad=draw(batch, queries, heads * dims))


def deformable_attention(value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor,
                         weights: Tensor, grad: Tensor) -> List[Tensor]:
    """Return output and gradients of the operator."""
    inputs = value, shapes, starts, locations, weights
    backs = like(value, locations, weights)
    out = ops.ms_deform_attn_forward(*inputs, 64)
    ops.ms_deform_attn_backward(*inputs, grad, *backs, 64)
    return [out, *backs]


def sampled_attention(levels: List[Tuple[int, int]], value: Tensor, locations: Tensor,
                      weights: Tensor, grad: Tensor, **others: Tensor) -> List[Tensor]:
    """Return the same by one grid_sample a level, the usual form without an operator."""
    inputs = [x.detach().requires_grad_() for x in (value, locations, weights)]
    batch, _, heads, dims = value.shape
    maps = inputs[0].split([h * w for h, w in levels], 1)
    grids = 2 * inputs[1] - 1
    samples = [F.grid_sample(
        m.flatten(2).transpose(1, 2).reshape(batch * heads, dims, *size),
        grids[:, :, :, i].transpose(1, 2).flatten(0, 1), align_corners=False)
        for i, (m, size) in enumerate(zip(maps, levels))]
    factors = inputs[2].transpose(1, 2).flatten(0, 1).flatten(2)[:, None]
    output = (torch.stack(samples, -2).flatten(-2) * factors).sum(-1)
    output = output.view(batch, heads * dims, -1).transpose(1, 2)
    return [output, *torch.autograd.grad(output, inputs, grad)]


def check(device: torch.device) -> int:
    """Print the largest error of each operator and type; return how many are too large."""
    failures = 0
    for dtype, bound in ((torch.float32, 1e-4), (torch.float16, 2e-2), (torch.bfloat16, 1e-1)):
        torch.manual_seed(0)
        for name, inputs, run in cases():
            inputs = {k: x.to(dtype) if x.is_floating_point() else x for k, x in inputs.items()}
            wanted = run(**{k: x.float() if x.is_floating_point() else x
                            for k, x in inputs.items()})
            moved = {k: x.to(device) for k, x in inputs.items()}
            try:
                run(**moved)
                if device.type == 'cuda' and name not in WAITING:
                    torch.cuda.synchronize()
                    torch.cuda.set_sync_debug_mode('error')
                found = run(**moved)
                problem = ''
            except Exception as e:  # one operator must not end the others
                found, problem = [], f'{type(e).__name__}: {e}'.splitlines()[0][:150]
            if device.type == 'cuda':
                torch.cuda.set_sync_debug_mode('default')
            errors = [float((a.float().cpu() - b).abs().max() / b.abs().max())
                      for a, b in zip(found, wanted)]
            good = bool(errors) and all(error <= bound for error in errors)
            failures += not good
            print(f'{"good" if good else "BAD "} {str(dtype)[6:]:9}{name:26}'
                  f'{max(errors, default=float("nan")):9.1e} {problem}', flush=True)
    return failures


def compare_attention(device: torch.device) -> None:
    """Print what attention as in DINO's encoder takes, by this operator and by grid_sample."""
    side = 100 if device.type == 'cuda' else 16
    levels = [(side >> i, side * 4 // 3 >> i) for i in range(4)]
    queries = sum(h * w for h, w in levels)
    for dtype in (torch.float32, torch.float16):
        inputs = {k: x.to(device, dtype) if x.is_floating_point() else x.to(device)
                  for k, x in attention(2, levels, queries, 8, 32).items()}
        for name, run in (('operator', partial(deformable_attention, **inputs)),
                          ('grid_sample', partial(sampled_attention, levels, **inputs))):
            times = []
            for _ in range(8):
                if device.type == 'cuda':
                    torch.cuda.reset_peak_memory_stats()
                    torch.cuda.synchronize()
                start = time.perf_counter()
                run()
                if device.type == 'cuda':
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - start)
            peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == 'cuda' else 0
            print(f'{queries} queries, {str(dtype)[6:]}, {name}: forward and backward '
                  f'{1000 * sorted(times)[len(times) // 2]:.1f} ms, peak {peak:.1f} GiB',
                  flush=True)


def main() -> None:
    """Check all operators, then compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--device', default='cuda', help='cuda or cpu (default: %(default)s)')
    device = torch.device(parser.parse_args().device)
    failures = check(device)
    compare_attention(device)
    sys.exit(failures > 0)


if __name__ == '__main__':
    main()
