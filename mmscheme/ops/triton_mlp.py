"""The block-diagonal FFN as Triton kernels: the hidden map never leaves the chip.

A program takes tiles of tokens of one group through both layers, a slice of the hidden width at
a time; the programs of one tile's groups are neighbours, because they share its cache lines.
Where all hidden channels of a group fit into one slice, its weights stay for several tiles. The
backward pass computes the slice again: one kernel for the input, one for the weights, whose sums
over parts of the tokens are added up afterwards in a fixed order, so that results repeat bit by
bit.
"""
import functools
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.errors import OutOfResources
from triton.runtime.interpreter import InterpretedFunction

from .measured import apart_from_hooks
from .operator import gradients

__all__ = ['backward', 'forward', 'needs', 'split_width', 'tiles', 'trial']

# Sums over tokens are split into parts of so many tokens, unless they would take more bytes.
_PART_TOKENS, _PART_BYTES, _MOST_PARTS = 1024, 32 * 2**20, 128
# The narrowest side of a tensor-core product of 16-bit numbers.
_LEAST = 16


def split_width(width: int) -> Tuple[int, int]:
    """Return the widths of the tiles that hold the channels of a group, powers of two or 0.

    80 channels are 64 + 16: padding them to 128 would be 60 % more arithmetic.

    Args:
        width: Channels of a group.

    Returns:
        The first tile and a second one, 0 where one is enough.
    """
    whole = max(_LEAST, triton.next_power_of_2(width))
    first = max(_LEAST, whole // 2)
    rest = max(_LEAST, triton.next_power_of_2(max(1, width - first)))
    return (first, rest) if width > first and first + rest < whole else (whole, 0)


@triton.jit
def _dot(a, b, WIDEN: tl.constexpr, PRECISION: tl.constexpr):
    if WIDEN:  # the interpreter has no products of bfloat16
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def _normal_cdf(h, EXACT: tl.constexpr):
    if EXACT:
        return 0.5 * (1 + tl.erf(h * 0.7071067811865476))
    # A polynomial in h^2 that runs beyond [0, 1] outside |h| < 3.8. GELU is off by 3e-4 at most,
    # about as float16 rounds it. The kernels are bound by this function where groups are narrow,
    # and erf takes twice as long.
    u = h * h
    p = u * 3.0253788e-08 - 1.95696386e-06
    p = p * u + 5.46223394e-05
    p = p * u - 0.00087442869
    p = p * u + 0.00904574433
    p = p * u - 0.0651326911
    p = p * u + 0.39825666
    return tl.minimum(tl.maximum(p * h + 0.5, 0.), 1.)


@triton.jit
def _activate(h, scale, shift, ACT: tl.constexpr, EXACT: tl.constexpr):
    if ACT == 'gelu':
        return h * _normal_cdf(h, EXACT)
    elif ACT == 'silu':
        return h / (1 + tl.exp(-h))
    elif ACT == 'relu':
        return tl.maximum(h, 0.)
    else:
        r = tl.maximum(h, 0.)
        return scale * r * r + shift


@triton.jit
def _activate_and_slope(h, scale, shift, ACT: tl.constexpr, EXACT: tl.constexpr):
    if ACT == 'gelu':
        cdf = _normal_cdf(h, EXACT)
        return h * cdf, cdf + h * 0.3989422804014327 * tl.exp(-0.5 * h * h)
    elif ACT == 'silu':
        s = 1 / (1 + tl.exp(-h))
        return h * s, s * (1 + h * (1 - s))
    elif ACT == 'relu':
        return tl.maximum(h, 0.), tl.where(h > 0, 1., 0.)
    else:
        r = tl.maximum(h, 0.)
        return scale * r * r + shift, 2 * scale * r


@triton.jit
def _load_tile(ptr, sample, p, c, inside, stride_b, stride_p, stride_c):
    """Load a tile of tokens; offsets are 64 bits, since a map may have more than 2^31 values."""
    return tl.load(ptr + sample.to(tl.int64) * stride_b + p.to(tl.int64)[:, None] * stride_p
                   + c.to(tl.int64)[None, :] * stride_c, mask=inside, other=0.)


@triton.jit
def _store_tile(ptr, value, sample, p, c, inside, stride_b, stride_p, stride_c):
    tl.store(ptr + sample.to(tl.int64) * stride_b + p.to(tl.int64)[:, None] * stride_p
             + c.to(tl.int64)[None, :] * stride_c, value.to(ptr.dtype.element_ty), mask=inside)


@triton.jit
def _load_weights(w1_ptr, w2_ptr, group, j, i, C: tl.constexpr, H: tl.constexpr):
    """Load both weights as (hidden, channels) tiles."""
    inside = (j < H)[:, None] & (i < C)[None, :]
    w1 = tl.load(w1_ptr + (group * H + j)[:, None] * C + i[None, :], mask=inside, other=0.)
    w2 = tl.load(w2_ptr + (group * C + i)[None, :] * H + j[:, None], mask=inside, other=0.)
    return w1, w2


@triton.jit
def _load_bias(b1_ptr, group, j, H: tl.constexpr, HAS_B1: tl.constexpr, BLOCK_H: tl.constexpr):
    if HAS_B1:
        return tl.load(b1_ptr + group * H + j, mask=j < H, other=0.).to(tl.float32)
    return tl.zeros((BLOCK_H, ), tl.float32)


@triton.jit
def _load_star(scale_ptr, shift_ptr, ACT: tl.constexpr):
    if ACT == 'star_relu':
        return tl.load(scale_ptr).to(tl.float32), tl.load(shift_ptr).to(tl.float32)
    return 1., 0.


@triton.jit
def _forward_kernel(x_ptr, w1_ptr, b1_ptr, w2_ptr, b2_ptr, scale_ptr, shift_ptr, gain_ptr, y_ptr,
                    B, P, sxb, sxp, sxc, syb, syp, syc,
                    C: tl.constexpr, H: tl.constexpr, ACT: tl.constexpr, HAS_B1: tl.constexpr,
                    HAS_B2: tl.constexpr, HAS_GAIN: tl.constexpr, WIDEN: tl.constexpr,
                    PRECISION: tl.constexpr, EXACT: tl.constexpr, BLOCK_A: tl.constexpr,
                    BLOCK_B: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_H: tl.constexpr,
                    GROUPS: tl.constexpr, TILES: tl.constexpr):
    group = tl.program_id(0) % GROUPS
    per_sample = tl.cdiv(P, BLOCK_M)
    ia = tl.arange(0, BLOCK_A)
    j = tl.arange(0, BLOCK_H)
    scale, shift = _load_star(scale_ptr, shift_ptr, ACT)
    if BLOCK_B > 0:
        ib = BLOCK_A + tl.arange(0, BLOCK_B)
    if BLOCK_H >= H:  # the weights stay
        w1a, w2a = _load_weights(w1_ptr, w2_ptr, group, j, ia, C, H)
        if BLOCK_B > 0:
            w1b, w2b = _load_weights(w1_ptr, w2_ptr, group, j, ib, C, H)
        b1 = _load_bias(b1_ptr, group, j, H, HAS_B1, BLOCK_H)
    for t in range(TILES):
        tile = tl.program_id(0) // GROUPS * TILES + t
        sample = tile // per_sample
        p = (tile % per_sample) * BLOCK_M + tl.arange(0, BLOCK_M)
        rows = ((p < P) & (sample < B))[:, None]
        inside_a = rows & (ia < C)[None, :]
        xa = _load_tile(x_ptr, sample, p, group * C + ia, inside_a, sxb, sxp, sxc)
        ya = tl.zeros((BLOCK_M, BLOCK_A), tl.float32)
        if BLOCK_B > 0:
            inside_b = rows & (ib < C)[None, :]
            xb = _load_tile(x_ptr, sample, p, group * C + ib, inside_b, sxb, sxp, sxc)
            yb = tl.zeros((BLOCK_M, BLOCK_B), tl.float32)
        for start in range(0, H, BLOCK_H):
            if BLOCK_H < H:
                w1a, w2a = _load_weights(w1_ptr, w2_ptr, group, start + j, ia, C, H)
                if BLOCK_B > 0:
                    w1b, w2b = _load_weights(w1_ptr, w2_ptr, group, start + j, ib, C, H)
                b1 = _load_bias(b1_ptr, group, start + j, H, HAS_B1, BLOCK_H)
            h = _dot(xa, tl.trans(w1a), WIDEN, PRECISION)
            if BLOCK_B > 0:
                h += _dot(xb, tl.trans(w1b), WIDEN, PRECISION)
            a = _activate(h + b1[None, :], scale, shift, ACT, EXACT).to(xa.dtype)
            ya += _dot(a, w2a, WIDEN, PRECISION)
            if BLOCK_B > 0:
                yb += _dot(a, w2b, WIDEN, PRECISION)
        if HAS_B2:
            ya += tl.load(b2_ptr + group * C + ia, mask=ia < C, other=0.).to(tl.float32)[None, :]
        if HAS_GAIN:
            gain = tl.load(gain_ptr).to(tl.float32)
            ya *= gain
        _store_tile(y_ptr, ya, sample, p, group * C + ia, inside_a, syb, syp, syc)
        if BLOCK_B > 0:
            if HAS_B2:
                yb += tl.load(b2_ptr + group * C + ib, mask=ib < C,
                              other=0.).to(tl.float32)[None, :]
            if HAS_GAIN:
                yb *= gain
            _store_tile(y_ptr, yb, sample, p, group * C + ib, inside_b, syb, syp, syc)


@triton.jit
def _input_kernel(g_ptr, x_ptr, w1_ptr, b1_ptr, w2_ptr, scale_ptr, dx_ptr,
                  B, P, sgb, sgp, sgc, sxb, sxp, sxc, sdb, sdp, sdc,
                  C: tl.constexpr, H: tl.constexpr, ACT: tl.constexpr, HAS_B1: tl.constexpr,
                  WIDEN: tl.constexpr, PRECISION: tl.constexpr, EXACT: tl.constexpr,
                  BLOCK_A: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_M: tl.constexpr,
                  BLOCK_H: tl.constexpr, GROUPS: tl.constexpr):
    group, tile = tl.program_id(0) % GROUPS, tl.program_id(0) // GROUPS
    per_sample = tl.cdiv(P, BLOCK_M)
    sample = tile // per_sample
    p = (tile % per_sample) * BLOCK_M + tl.arange(0, BLOCK_M)
    ia = tl.arange(0, BLOCK_A)
    inside_a = (p < P)[:, None] & (ia < C)[None, :]
    xa = _load_tile(x_ptr, sample, p, group * C + ia, inside_a, sxb, sxp, sxc)
    ga = _load_tile(g_ptr, sample, p, group * C + ia, inside_a, sgb, sgp, sgc)
    dxa = tl.zeros((BLOCK_M, BLOCK_A), tl.float32)
    if BLOCK_B > 0:
        ib = BLOCK_A + tl.arange(0, BLOCK_B)
        inside_b = (p < P)[:, None] & (ib < C)[None, :]
        xb = _load_tile(x_ptr, sample, p, group * C + ib, inside_b, sxb, sxp, sxc)
        gb = _load_tile(g_ptr, sample, p, group * C + ib, inside_b, sgb, sgp, sgc)
        dxb = tl.zeros((BLOCK_M, BLOCK_B), tl.float32)
    scale, shift = _load_star(scale_ptr, scale_ptr, ACT)
    for start in range(0, H, BLOCK_H):
        j = start + tl.arange(0, BLOCK_H)
        w1a, w2a = _load_weights(w1_ptr, w2_ptr, group, j, ia, C, H)
        h = _dot(xa, tl.trans(w1a), WIDEN, PRECISION)
        da = _dot(ga, tl.trans(w2a), WIDEN, PRECISION)
        if BLOCK_B > 0:
            w1b, w2b = _load_weights(w1_ptr, w2_ptr, group, j, ib, C, H)
            h += _dot(xb, tl.trans(w1b), WIDEN, PRECISION)
            da += _dot(gb, tl.trans(w2b), WIDEN, PRECISION)
        h += _load_bias(b1_ptr, group, j, H, HAS_B1, BLOCK_H)[None, :]
        unused, slope = _activate_and_slope(h, scale, shift, ACT, EXACT)
        dh = (da * slope).to(xa.dtype)
        dxa += _dot(dh, w1a, WIDEN, PRECISION)
        if BLOCK_B > 0:
            dxb += _dot(dh, w1b, WIDEN, PRECISION)
    _store_tile(dx_ptr, dxa, sample, p, group * C + ia, inside_a, sdb, sdp, sdc)
    if BLOCK_B > 0:
        _store_tile(dx_ptr, dxb, sample, p, group * C + ib, inside_b, sdb, sdp, sdc)


@triton.jit
def _weight_kernel(g_ptr, x_ptr, w1_ptr, b1_ptr, w2_ptr, scale_ptr, shift_ptr, sums_ptr,
                   B, P, sgb, sgp, sgc, sxb, sxp, sxc, PARTS,
                   C: tl.constexpr, H: tl.constexpr, ACT: tl.constexpr, HAS_B1: tl.constexpr,
                   WIDEN: tl.constexpr, PRECISION: tl.constexpr, EXACT: tl.constexpr,
                   BLOCK_A: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_M: tl.constexpr,
                   BLOCK_H: tl.constexpr):
    # Hidden values are (hidden, tokens) tiles here: so they are what the products for the weights'
    # gradients take from registers, and sums over tokens stay within a warp.
    group, part = tl.program_id(1), tl.program_id(2)
    groups = tl.num_programs(1)
    j = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H)
    ia = tl.arange(0, BLOCK_A)
    w1a, w2a = _load_weights(w1_ptr, w2_ptr, group, j, ia, C, H)
    dw1a = tl.zeros((BLOCK_H, BLOCK_A), tl.float32)
    dw2a = tl.zeros((BLOCK_H, BLOCK_A), tl.float32)
    if BLOCK_B > 0:
        ib = BLOCK_A + tl.arange(0, BLOCK_B)
        w1b, w2b = _load_weights(w1_ptr, w2_ptr, group, j, ib, C, H)
        dw1b = tl.zeros((BLOCK_H, BLOCK_B), tl.float32)
        dw2b = tl.zeros((BLOCK_H, BLOCK_B), tl.float32)
    b1 = _load_bias(b1_ptr, group, j, H, HAS_B1, BLOCK_H)
    scale, shift = _load_star(scale_ptr, shift_ptr, ACT)
    db1 = tl.zeros((BLOCK_H, ), tl.float32)
    dscale = tl.zeros((BLOCK_H, ), tl.float32)
    dshift = tl.zeros((BLOCK_H, ), tl.float32)
    per_sample = tl.cdiv(P, BLOCK_M)
    for tile in range(part, B * per_sample, PARTS):
        sample = tile // per_sample
        p = (tile % per_sample) * BLOCK_M + tl.arange(0, BLOCK_M)
        inside_a = (p < P)[:, None] & (ia < C)[None, :]
        xa = _load_tile(x_ptr, sample, p, group * C + ia, inside_a, sxb, sxp, sxc)
        ga = _load_tile(g_ptr, sample, p, group * C + ia, inside_a, sgb, sgp, sgc)
        h = _dot(w1a, tl.trans(xa), WIDEN, PRECISION)
        da = _dot(w2a, tl.trans(ga), WIDEN, PRECISION)
        if BLOCK_B > 0:
            inside_b = (p < P)[:, None] & (ib < C)[None, :]
            xb = _load_tile(x_ptr, sample, p, group * C + ib, inside_b, sxb, sxp, sxc)
            gb = _load_tile(g_ptr, sample, p, group * C + ib, inside_b, sgb, sgp, sgc)
            h += _dot(w1b, tl.trans(xb), WIDEN, PRECISION)
            da += _dot(w2b, tl.trans(gb), WIDEN, PRECISION)
        h += b1[:, None]
        # Beyond the last token the gradient is zero, and with it everything that is added.
        if ACT == 'star_relu':
            r = tl.maximum(h, 0.)
            dscale += tl.sum(da * r * r, 1)
            dshift += tl.sum(da, 1)
        a, slope = _activate_and_slope(h, scale, shift, ACT, EXACT)
        a = a.to(xa.dtype)
        dw2a += _dot(a, ga, WIDEN, PRECISION)
        if BLOCK_B > 0:
            dw2b += _dot(a, gb, WIDEN, PRECISION)
        da *= slope
        db1 += tl.sum(da, 1)
        dh = da.to(xa.dtype)
        dw1a += _dot(dh, xa, WIDEN, PRECISION)
        if BLOCK_B > 0:
            dw1b += _dot(dh, xb, WIDEN, PRECISION)
    # A part's sums lie one after the other: dw1, dw2, db1 and those of StarReLU.
    hidden = groups * H
    columns = 2 * C + 3 if ACT == 'star_relu' else 2 * C + 1
    base = sums_ptr + part.to(tl.int64) * (hidden * columns)
    _store_sums(base, base + hidden * C, dw1a, dw2a, group, j, ia, C, H)
    if BLOCK_B > 0:
        _store_sums(base, base + hidden * C, dw1b, dw2b, group, j, ib, C, H)
    base += 2 * hidden * C + group * H + j
    tl.store(base, db1, mask=j < H)
    if ACT == 'star_relu':
        tl.store(base + hidden, dscale, mask=j < H)
        tl.store(base + 2 * hidden, dshift, mask=j < H)


@triton.jit
def _store_sums(dw1_ptr, dw2_ptr, dw1, dw2, group, j, i, C: tl.constexpr, H: tl.constexpr):
    """Store the gradients of both weights in the weights' own layout."""
    tl.store(dw1_ptr + (group * H + j)[:, None] * C + i[None, :], dw1,
             mask=(j < H)[:, None] & (i < C)[None, :])
    tl.store(dw2_ptr + (group * C + i)[:, None] * H + j[None, :], tl.trans(dw2),
             mask=(i < C)[:, None] & (j < H)[None, :])


_INTERPRETED = isinstance(_dot, InterpretedFunction)


@functools.cache
def tiles(kernel: Any, width: int, hidden: int, exact: bool = False, capability: int = 90
          ) -> List[Dict[str, int]]:
    """Return tiles for groups of a width, the best first; later ones need less shared memory.

    They are those that an H200 was fastest with in bfloat16, to a few percent: a search at the
    first call would compile each kernel five times and make results differ between runs.

    Args:
        kernel: One of the above.
        width, hidden: Channels and hidden channels of a group.
        exact: True for products of float32 without tensor cores, which are written out: their
            tiles are the smallest.
        capability: Of the GPU, 90 for 9.0. Before that the operands of products lie in
            registers, of which larger tiles need more than there are.
    """
    # Tokens, hidden channels, tiles a program, warps and stages.
    safe = (32, 32, 1, 4, 1)
    if width > 128:
        found = [(32, 32, 1, 4, 2)]
    elif kernel is _weight_kernel:
        found = [(64, 64, 1, 4, 1) if width <= 32 else
                 (64, 64, 1, 4, 2) if width <= 80 and capability >= 90 else (32, 64, 1, 4, 2)]
    elif kernel is _input_kernel:
        found = [(64, 32, 1, 4, 3) if width <= 32 else
                 (64, 64, 1, 4, 2) if capability >= 90 else (64, 32, 1, 4, 2)]
    else:
        found = [(64, 128, 4, 4, 2) if hidden <= 128 else (128, 64, 1, 4, 2) if width <= 32 else
                 (64, 64, 1, 4, 3), (64, 32, 1, 4, 2)]
    found = [safe] if exact else [*found, safe]
    widest = max(_LEAST, triton.next_power_of_2(hidden))
    return [dict(BLOCK_M=m, BLOCK_H=min(h, widest), num_warps=warps, num_stages=stages,
                 **(dict(TILES=t) if kernel is _forward_kernel else {}))
            for m, h, t, warps, stages in found]


@functools.cache
def _capability(device: torch.device) -> int:
    if device.type != 'cuda':
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


# The first of the tiles that fit, by kernel, group and dtype.
_fitting: Dict[Any, int] = {}


def _launch(kernel: Any, grid: Callable[[Dict[str, int]], Tuple[int, ...]], x: Tensor,
            arguments: Sequence[Any], constants: Dict[str, Any]) -> None:
    """Run a kernel with the best tiles that the device has the shared memory for."""
    exact = constants['EXACT'] and constants['PRECISION'] == 'ieee'
    choices = tiles(kernel, constants['C'], constants['H'], exact, _capability(x.device))
    key = (kernel, constants['C'], constants['H'], x.dtype, exact, x.device)
    with torch.cuda.device_of(x):  # where Triton launches
        for index in range(_fitting.get(key, 0), len(choices)):
            tile = choices[index]
            try:
                kernel[grid(tile)](*arguments, **constants, **tile)
            except OutOfResources:
                if index + 1 == len(choices):
                    raise
            else:
                _fitting[key] = index
                return


def needs(device_type: str, index: Optional[int]) -> Optional[str]:
    """Return what a device lacks for these kernels; None when nothing."""
    if _INTERPRETED:
        return None
    if device_type != 'cuda' or torch.version.hip:
        return 'Triton kernels need an NVIDIA GPU'
    capability = torch.cuda.get_device_capability(index)
    if capability < (8, 0):
        return f'compute capability {capability} is below 8.0'
    return trial(torch.device(device_type, index or 0))


@functools.cache
def trial(device: torch.device) -> Optional[str]:
    """Return what goes wrong with the kernels on a device; None when they compute what they should.

    There are more GPUs, drivers and versions of Triton than can be tested. A small input,
    compared once a process with the formula, keeps a kernel that fails from spoiling a run.
    """
    generator = torch.Generator('cpu').manual_seed(0)
    # 70 tokens, 12 channels and 40 hidden ones a group: none fills a tile.
    shapes = ((2, 70, 24), (80, 12), (80, ), (24, 40), (24, ))
    try:
        with torch.inference_mode(False), torch.autocast(device.type, enabled=False):
            tensors = [torch.randn(shape, generator=generator, device='cpu',
                                   dtype=torch.float32).to(device) for shape in shapes]
            x, w1, b1, w2, b2 = tensors
            grad = x.flip(1).contiguous()
            y = forward(x, w1, b1, w2, b2, 2, 'gelu', None, None, None)
            dx, sums, db2 = backward(grad, x, w1, b1, w2, 2, 'gelu', None, None)
            dw1, db1, dw2, *_ = gradients(sums, w1, b1, w2, 'gelu')
            found = [y, dx, dw1, db1, dw2, db2]
            with torch.enable_grad(), apart_from_hooks():
                x, w1, b1, w2, b2 = doubles = [t.double().requires_grad_() for t in tensors]
                hidden = torch.einsum('bngi,goi->bngo', x.unflatten(2, (2, 12)),
                                      w1.unflatten(0, (2, 40))).flatten(2) + b1
                y = torch.einsum('bngi,goi->bngo', F.gelu(hidden).unflatten(2, (2, 40)),
                                 w2.unflatten(0, (2, 12))).flatten(2) + b2
                wanted = [y, *torch.autograd.grad(y, doubles, grad.double())]
        for a, b in zip(found, wanted):
            error = float((a - b.detach()).abs().max() / b.detach().abs().max())
            if not error < 1e-2:    # tf32 has three digits
                return f'its Triton kernels are off by {error:.1g} in a trial'
    except Exception as e:  # whatever a compiler or driver raises
        return f'a trial of its Triton kernels ended with {type(e).__name__}: ' \
               f'{(str(e).splitlines() or [""])[0]}'
    return None


def _view(x: Tensor) -> Tensor:
    """Return ``(B, N, C)`` as one sample where the strides allow it."""
    if x.stride(0) == x.shape[1] * x.stride(1):
        return x.as_strided((1, x.shape[0] * x.shape[1], x.shape[2]), (0, *x.stride()[1:]))
    return x


def _views(*tensors: Tensor) -> Tuple[Tensor, ...]:
    flat = tuple(_view(t) for t in tensors)
    return flat if len({t.shape for t in flat}) == 1 else tensors


def _allows_tf32() -> bool:
    """Return True if torch may round the factors of products of float32."""
    switches = torch.backends.cuda.matmul
    # Before torch 2.9 there is the second alone; after it, reading both may be an error.
    if hasattr(switches, 'fp32_precision'):
        return bool(switches.fp32_precision == 'tf32')
    return bool(switches.allow_tf32)


def _constants(x: Tensor, width: int, hidden: int, act: str, bias: bool) -> Dict[str, Any]:
    single = x.dtype == torch.float32
    a, b = split_width(width)
    return dict(C=width, H=hidden, ACT=act, HAS_B1=bias,
                WIDEN=_INTERPRETED and x.dtype == torch.bfloat16,
                PRECISION='tf32' if single and _allows_tf32() else 'ieee', EXACT=single,
                BLOCK_A=a, BLOCK_B=b)


def _over_tokens(x: Tensor, groups: int) -> Callable[[Dict[str, int]], Tuple[int]]:
    batch, tokens, _ = x.shape
    return lambda tile: (groups * triton.cdiv(batch * triton.cdiv(tokens, tile['BLOCK_M']),
                                              tile.get('TILES', 1)), )


def forward(x: Tensor, w1: Tensor, b1: Optional[Tensor], w2: Tensor, b2: Optional[Tensor],
            groups: int, act: str, scale: Optional[Tensor], shift: Optional[Tensor],
            gain: Optional[Tensor]) -> Tensor:
    """See :func:`mmscheme.ops.mlp.block_diagonal_mlp`."""
    y = torch.empty_like(x)
    xs, ys = _views(x, y)
    width, hidden = w2.shape[0] // groups, w1.shape[0] // groups
    _launch(_forward_kernel, _over_tokens(xs, groups), x,
            (xs, w1, b1, w2, b2, scale, shift, gain, ys, *xs.shape[:2], *xs.stride(),
             *ys.stride()),
            dict(_constants(x, width, hidden, act, b1 is not None), HAS_B2=b2 is not None,
                 HAS_GAIN=gain is not None, GROUPS=groups))
    return y


def backward(grad: Tensor, x: Tensor, w1: Tensor, b1: Optional[Tensor], w2: Tensor,
             groups: int, act: str, scale: Optional[Tensor], shift: Optional[Tensor]
             ) -> Tuple[Tensor, Tensor, Tensor]:
    """Return gradients for ``x``, all others (see ``gradient_sizes``) and ``b2``.

    All but the first are float32.
    """
    dx = torch.empty_like(x)
    gs, xs, ds = _views(grad, x, dx)
    (batch, tokens, _), width, hidden = xs.shape, w2.shape[0] // groups, w1.shape[0] // groups
    constants = _constants(x, width, hidden, act, b1 is not None)
    parts = max(1, min(batch * tokens // _PART_TOKENS, _PART_BYTES // (8 * w1.numel()),
                       _MOST_PARTS))
    star = 2 if act == 'star_relu' else 0
    sums = x.new_empty((parts, 2 * w1.numel() + (1 + star) * len(w1)), dtype=torch.float32)
    strides = (*gs.stride(), *xs.stride())
    _launch(_input_kernel, _over_tokens(xs, groups), x,
            (gs, xs, w1, b1, w2, scale, ds, batch, tokens, *strides, *ds.stride()),
            dict(constants, GROUPS=groups))
    _launch(_weight_kernel, lambda tile: (triton.cdiv(hidden, tile['BLOCK_H']), groups, parts), x,
            (gs, xs, w1, b1, w2, scale, shift, sums, batch, tokens, *strides, parts), constants)
    found = sums.sum(0)
    if star:
        ffn, star_relu = found.split([len(found) - 2 * len(w1), 2 * len(w1)])
        found = torch.cat([ffn, star_relu.view(2, -1).sum(1)])
    return dx, found, grad.sum((0, 1), dtype=torch.float32)
