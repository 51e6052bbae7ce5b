"""The block-diagonal FFN as Triton kernels: the hidden map never leaves the chip.

A program takes a tile of tokens of one group through both layers, a slice of the hidden
width at a time. The backward pass computes the slice again: one kernel for the input,
one for the weights, whose sums over parts of the tokens are added up afterwards in a fixed
order, so that results repeat bit by bit.
"""
import functools
from typing import Any, Callable, Dict, Optional, Tuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

__all__ = ['backward', 'forward', 'needs', 'trial']

# Sums over tokens are split into parts of so many tokens, unless they would take more bytes.
_PART_TOKENS, _PART_BYTES = 1024, 32 * 2**20


@triton.jit
def _dot(a, b, WIDEN: tl.constexpr, PRECISION: tl.constexpr):
    if WIDEN:  # the interpreter has no products of bfloat16
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def _activate(h, scale, shift, ACT: tl.constexpr):
    if ACT == 'gelu':
        return 0.5 * h * (1 + tl.erf(h * 0.7071067811865476))
    elif ACT == 'silu':
        return h / (1 + tl.exp(-h))
    elif ACT == 'relu':
        return tl.maximum(h, 0.)
    else:
        r = tl.maximum(h, 0.)
        return scale * r * r + shift


@triton.jit
def _slope(h, scale, ACT: tl.constexpr):
    if ACT == 'gelu':
        return (0.5 * (1 + tl.erf(h * 0.7071067811865476))
                + h * 0.3989422804014327 * tl.exp(-0.5 * h * h))
    elif ACT == 'silu':
        s = 1 / (1 + tl.exp(-h))
        return s * (1 + h * (1 - s))
    elif ACT == 'relu':
        return tl.where(h > 0, 1., 0.)
    else:
        return 2 * scale * tl.maximum(h, 0.)


@triton.jit
def _rows(ptr, sample, p, c, stride_b, stride_p, stride_c):
    """Pointers to a tile of tokens; 64 bits, since a map may have more than 2^31 values."""
    return (ptr + sample.to(tl.int64) * stride_b + p.to(tl.int64)[:, None] * stride_p
            + c.to(tl.int64)[None, :] * stride_c)


@triton.jit
def _forward_kernel(x_ptr, w1_ptr, b1_ptr, w2_ptr, b2_ptr, scale_ptr, shift_ptr, y_ptr,
                    P, C, H, sxb, sxp, sxc, syb, syp, syc,
                    ACT: tl.constexpr, HAS_B1: tl.constexpr, HAS_B2: tl.constexpr,
                    WIDEN: tl.constexpr, PRECISION: tl.constexpr, BLOCK_C: tl.constexpr,
                    BLOCK_M: tl.constexpr, BLOCK_H: tl.constexpr):
    tiles = tl.cdiv(P, BLOCK_M)
    sample = tl.program_id(0) // tiles
    group = tl.program_id(1)
    p = (tl.program_id(0) % tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
    i = tl.arange(0, BLOCK_C)
    c = group * C + i
    inside = (p < P)[:, None] & (i < C)[None, :]
    x = tl.load(_rows(x_ptr, sample, p, c, sxb, sxp, sxc), mask=inside, other=0.)
    scale, shift = 1., 0.
    if ACT == 'star_relu':
        scale = tl.load(scale_ptr).to(tl.float32)
        shift = tl.load(shift_ptr).to(tl.float32)
    y = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for start in range(0, H, BLOCK_H):
        j = start + tl.arange(0, BLOCK_H)
        # Both weights as (hidden, channels) tiles.
        weights = (j < H)[:, None] & (i < C)[None, :]
        w1 = tl.load(w1_ptr + (group * H + j)[:, None] * C + i[None, :], mask=weights, other=0.)
        w2 = tl.load(w2_ptr + c[None, :] * H + j[:, None], mask=weights, other=0.)
        h = _dot(x, tl.trans(w1), WIDEN, PRECISION)
        if HAS_B1:
            h += tl.load(b1_ptr + group * H + j, mask=j < H, other=0.).to(tl.float32)[None, :]
        y += _dot(_activate(h, scale, shift, ACT).to(x.dtype), w2, WIDEN, PRECISION)
    if HAS_B2:
        y += tl.load(b2_ptr + c, mask=i < C, other=0.).to(tl.float32)[None, :]
    tl.store(_rows(y_ptr, sample, p, c, syb, syp, syc), y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _input_kernel(g_ptr, x_ptr, w1_ptr, b1_ptr, w2_ptr, scale_ptr, dx_ptr,
                  P, C, H, sgb, sgp, sgc, sxb, sxp, sxc, sdb, sdp, sdc,
                  ACT: tl.constexpr, HAS_B1: tl.constexpr, WIDEN: tl.constexpr,
                  PRECISION: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_M: tl.constexpr,
                  BLOCK_H: tl.constexpr):
    tiles = tl.cdiv(P, BLOCK_M)
    sample = tl.program_id(0) // tiles
    group = tl.program_id(1)
    p = (tl.program_id(0) % tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
    i = tl.arange(0, BLOCK_C)
    c = group * C + i
    inside = (p < P)[:, None] & (i < C)[None, :]
    x = tl.load(_rows(x_ptr, sample, p, c, sxb, sxp, sxc), mask=inside, other=0.)
    g = tl.load(_rows(g_ptr, sample, p, c, sgb, sgp, sgc), mask=inside, other=0.)
    scale = 1.
    if ACT == 'star_relu':
        scale = tl.load(scale_ptr).to(tl.float32)
    dx = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for start in range(0, H, BLOCK_H):
        j = start + tl.arange(0, BLOCK_H)
        weights = (j < H)[:, None] & (i < C)[None, :]
        w1 = tl.load(w1_ptr + (group * H + j)[:, None] * C + i[None, :], mask=weights, other=0.)
        w2 = tl.load(w2_ptr + c[None, :] * H + j[:, None], mask=weights, other=0.)
        h = _dot(x, tl.trans(w1), WIDEN, PRECISION)
        if HAS_B1:
            h += tl.load(b1_ptr + group * H + j, mask=j < H, other=0.).to(tl.float32)[None, :]
        dh = _dot(g, tl.trans(w2), WIDEN, PRECISION) * _slope(h, scale, ACT)
        dx += _dot(dh.to(x.dtype), w1, WIDEN, PRECISION)
    tl.store(_rows(dx_ptr, sample, p, c, sdb, sdp, sdc), dx.to(dx_ptr.dtype.element_ty),
             mask=inside)


@triton.jit
def _weight_kernel(g_ptr, x_ptr, w1_ptr, b1_ptr, w2_ptr, scale_ptr, shift_ptr, dw1_ptr, db1_ptr,
                   dw2_ptr, dscale_ptr, dshift_ptr,
                   B, P, C, H, sgb, sgp, sgc, sxb, sxp, sxc, PARTS,
                   ACT: tl.constexpr, HAS_B1: tl.constexpr, WIDEN: tl.constexpr,
                   PRECISION: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_M: tl.constexpr,
                   BLOCK_H: tl.constexpr):
    group, part = tl.program_id(1), tl.program_id(2)
    groups = tl.num_programs(1)
    j = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H)
    i = tl.arange(0, BLOCK_C)
    c = group * C + i
    weights = (j < H)[:, None] & (i < C)[None, :]
    w1 = tl.load(w1_ptr + (group * H + j)[:, None] * C + i[None, :], mask=weights, other=0.)
    w2 = tl.load(w2_ptr + c[None, :] * H + j[:, None], mask=weights, other=0.)
    b1 = tl.zeros((BLOCK_H, ), tl.float32)
    if HAS_B1:
        b1 += tl.load(b1_ptr + group * H + j, mask=j < H, other=0.).to(tl.float32)
    scale, shift = 1., 0.
    if ACT == 'star_relu':
        scale = tl.load(scale_ptr).to(tl.float32)
        shift = tl.load(shift_ptr).to(tl.float32)
    dw1 = tl.zeros((BLOCK_H, BLOCK_C), tl.float32)
    dw2 = tl.zeros((BLOCK_H, BLOCK_C), tl.float32)
    db1 = tl.zeros((BLOCK_H, ), tl.float32)
    dscale = tl.zeros((BLOCK_H, ), tl.float32)
    dshift = tl.zeros((BLOCK_H, ), tl.float32)
    tiles = tl.cdiv(P, BLOCK_M)
    for tile in range(part, B * tiles, PARTS):
        sample = tile // tiles
        p = (tile % tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
        inside = (p < P)[:, None] & (i < C)[None, :]
        x = tl.load(_rows(x_ptr, sample, p, c, sxb, sxp, sxc), mask=inside, other=0.)
        g = tl.load(_rows(g_ptr, sample, p, c, sgb, sgp, sgc), mask=inside, other=0.)
        h = _dot(x, tl.trans(w1), WIDEN, PRECISION) + b1[None, :]
        da = _dot(g, tl.trans(w2), WIDEN, PRECISION)
        dh = da * _slope(h, scale, ACT)
        # Beyond the last token the gradient is zero, and with it everything that is added.
        dw2 += _dot(tl.trans(_activate(h, scale, shift, ACT).to(x.dtype)), g, WIDEN, PRECISION)
        dw1 += _dot(tl.trans(dh.to(x.dtype)), x, WIDEN, PRECISION)
        db1 += tl.sum(dh, 0)
        if ACT == 'star_relu':
            r = tl.maximum(h, 0.)
            dscale += tl.sum(da * r * r, 0)
            dshift += tl.sum(da, 0)
    base = (part * groups + group).to(tl.int64) * H
    out = base * C + j[:, None] * C + i[None, :]
    tl.store(dw1_ptr + out, dw1, mask=weights)
    tl.store(dw2_ptr + out, dw2, mask=weights)
    tl.store(db1_ptr + base + j, db1, mask=j < H)
    if ACT == 'star_relu':
        tl.store(dscale_ptr + base + j, dscale, mask=j < H)
        tl.store(dshift_ptr + base + j, dshift, mask=j < H)


_INTERPRETED = isinstance(_dot, InterpretedFunction)


# Tokens and hidden channels of a tile, warps and stages. The first of each is small enough for
# any device and dtype; what does not fit into the shared memory is left out by Triton.
_TILES = [(32, 16, 4, 1), (64, 32, 4, 2), (64, 64, 4, 2), (64, 64, 8, 3), (128, 32, 4, 3),
          (128, 32, 8, 2), (128, 64, 4, 2), (128, 64, 8, 2), (128, 64, 8, 3), (128, 128, 8, 2)]
_WEIGHT_TILES = [(16, 16, 4, 1), (32, 32, 4, 2), (64, 32, 4, 2), (64, 64, 4, 2), (64, 64, 8, 2),
                 (128, 32, 4, 2), (128, 64, 8, 2), (64, 128, 8, 2)]


@functools.cache
def _tuned(kernel: Any) -> Any:
    """A kernel that chooses its tiles by measurement, once a width and dtype.

    Not before it is used, and not in the interpreter: Triton 3.2 (torch 2.6) asks for the
    GPU's driver here.
    """
    tiles = _WEIGHT_TILES if kernel is _weight_kernel else _TILES
    if _INTERPRETED:
        m, h, *_ = tiles[0]
        return triton.heuristics(dict(BLOCK_M=lambda args: m, BLOCK_H=lambda args: h))(kernel)
    configs = [triton.Config(dict(BLOCK_M=m, BLOCK_H=h), num_warps=warps, num_stages=stages)
               for m, h, warps, stages in tiles]
    return triton.autotune(configs, key=['C', 'H', 'BLOCK_C', 'PRECISION', 'ACT'])(kernel)


def needs(device_type: str, index: Optional[int]) -> Optional[str]:
    """What a device lacks for these kernels; None when nothing."""
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
    """What goes wrong with the kernels on a device; None when they compute what they should.

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
            found = [forward(x, w1, b1, w2, b2, 2, 'gelu', None, None, None),
                     *backward(grad, x, w1, b1, w2, 2, 'gelu', None, None)[:5]]
            with torch.enable_grad():
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
    """``(B, N, C)`` as one sample where the strides allow it."""
    if x.stride(0) == x.shape[1] * x.stride(1):
        return x.as_strided((1, x.shape[0] * x.shape[1], x.shape[2]), (0, *x.stride()[1:]))
    return x


def _views(*tensors: Tensor) -> Tuple[Tensor, ...]:
    flat = tuple(_view(t) for t in tensors)
    return flat if len({t.shape for t in flat}) == 1 else tensors


def _allows_tf32() -> bool:
    """Whether torch may round the factors of products of float32."""
    switches = torch.backends.cuda.matmul
    # Before torch 2.9 there is the second alone; after it, reading both may be an error.
    if hasattr(switches, 'fp32_precision'):
        return bool(switches.fp32_precision == 'tf32')
    return bool(switches.allow_tf32)


def _options(x: Tensor, width: int, act: str) -> Dict[str, Any]:
    tf32 = x.dtype == torch.float32 and _allows_tf32()
    return dict(ACT=act, WIDEN=_INTERPRETED and x.dtype == torch.bfloat16,
                PRECISION='tf32' if tf32 else 'ieee',
                BLOCK_C=max(16, triton.next_power_of_2(width)))


def _over_tokens(x: Tensor, groups: int) -> Callable[[Dict[str, int]], Tuple[int, int]]:
    return lambda meta: (x.shape[0] * triton.cdiv(x.shape[1], meta['BLOCK_M']), groups)


def _on(x: Tensor) -> Any:
    """Makes the tensor's GPU the current one, where Triton launches."""
    return torch.cuda.device_of(x)


def forward(x: Tensor, w1: Tensor, b1: Optional[Tensor], w2: Tensor, b2: Optional[Tensor],
            groups: int, act: str, scale: Optional[Tensor], shift: Optional[Tensor],
            gain: Optional[Tensor]) -> Tensor:
    """See :func:`mmscheme.ops.mlp.block_diagonal_mlp`."""
    w1, w2 = w1.contiguous(), w2.contiguous()
    y = torch.empty_like(x)
    xs, ys = _views(x, y)
    width, hidden = w2.shape[0] // groups, w1.shape[0] // groups
    with _on(x):
        _tuned(_forward_kernel)[_over_tokens(xs, groups)](
            xs, w1, b1, w2, b2, scale, shift, ys, xs.shape[1], width, hidden, *xs.stride(),
            *ys.stride(), HAS_B1=b1 is not None, HAS_B2=b2 is not None,
            **_options(x, width, act))
    return y if gain is None else y.mul_(gain)


def backward(grad: Tensor, x: Tensor, w1: Tensor, b1: Optional[Tensor], w2: Tensor,
             groups: int, act: str, scale: Optional[Tensor], shift: Optional[Tensor]
             ) -> Tuple[Tensor, ...]:
    """Gradients for ``x, w1, b1, w2, b2, scale, shift``; those of weights in float32."""
    w1, w2 = w1.contiguous(), w2.contiguous()
    dx = torch.empty_like(x)
    gs, xs, ds = _views(grad, x, dx)
    (batch, tokens, _), width, hidden = xs.shape, w2.shape[0] // groups, w1.shape[0] // groups
    options = dict(HAS_B1=b1 is not None, **_options(x, width, act))
    parts = max(1, min(batch * tokens // _PART_TOKENS, _PART_BYTES // (8 * w1.numel()), 128))
    dw1, dw2 = (x.new_empty((parts, groups, hidden, width), dtype=torch.float32)
                for _ in range(2))
    db1, dscale, dshift = (x.new_zeros((parts, groups, hidden), dtype=torch.float32)
                           for _ in range(3))
    with _on(x):
        _tuned(_input_kernel)[_over_tokens(xs, groups)](
            gs, xs, w1, b1, w2, scale, ds, tokens, width, hidden, *gs.stride(), *xs.stride(),
            *ds.stride(), **options)
        _tuned(_weight_kernel)[lambda meta: (triton.cdiv(hidden, meta['BLOCK_H']), groups, parts)](
            gs, xs, w1, b1, w2, scale, shift, dw1, db1, dw2, dscale, dshift, batch, tokens,
            width, hidden, *gs.stride(), *xs.stride(), parts, **options)
    return (dx, dw1.sum(0).view(w1.shape), db1.sum(0).flatten(),
            dw2.sum(0).transpose(1, 2).reshape(w2.shape), grad.sum((0, 1), dtype=torch.float32),
            dscale.sum().view(1), dshift.sum().view(1))
