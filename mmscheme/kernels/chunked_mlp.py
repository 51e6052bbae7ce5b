"""The block-diagonal FFN a group and a chunk of tokens at a time, its hidden map in the cache.

Each group's hidden values are computed, used and forgotten while they are in the cache; the
backward pass computes them again. Nothing of the hidden width is kept or goes to memory.
"""
from typing import Any, Iterator, List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .pointwise import matmul_rows, outer_rows

__all__ = ['backward', 'forward']

# Bytes of a hidden chunk, measured best between 1 and 4 MiB.
_CHUNK = 2 * 2**20


def _activate_(h: Tensor, act: str, scale: Optional[Tensor], shift: Optional[Tensor]) -> Tensor:
    """The activation, in place."""
    if act == 'gelu':
        return torch.ops.aten.gelu_(h)
    if act == 'silu':
        return F.silu(h, inplace=True)
    h.relu_()
    return h if act == 'relu' else h.square_().mul_(scale).add_(shift)


def _activate_backward_(grad: Tensor, h: Tensor, act: str, scale: Any) -> Tensor:
    """The gradient before the activation, in the place of the gradient after it."""
    aten = torch.ops.aten
    if act == 'gelu':
        return aten.gelu_backward.grad_input(grad, h, grad_input=grad)
    if act == 'silu':
        return aten.silu_backward.grad_input(grad, h, grad_input=grad)
    if act == 'relu':
        return aten.threshold_backward.grad_input(grad, h, 0, grad_input=grad)
    return grad.mul_(h.relu()).mul_(2 * scale)


def _chunks(tokens: int, width: int, element_size: int) -> Iterator[slice]:
    """Splits tokens evenly, into multiples of 16 but for the last."""
    limit = max(256, _CHUNK // (width * element_size))
    count = max(1, -(-tokens // limit))
    step = -(-tokens // (16 * count)) * 16
    for start in range(0, tokens, max(step, 1)):
        yield slice(start, min(start + step, tokens))


def _weights(weight: Tensor, groups: int) -> List[Tensor]:
    return list(weight.view(groups, -1, weight.shape[1]))


def _biases(bias: Optional[Tensor], groups: int) -> List[Optional[Tensor]]:
    return [None] * groups if bias is None else list(bias.view(groups, -1))


def forward(x: Tensor, w1: Tensor, b1: Optional[Tensor], w2: Tensor, b2: Optional[Tensor],
            groups: int, act: str, scale: Optional[Tensor], shift: Optional[Tensor]) -> Tensor:
    """See :func:`mmscheme.kernels.mlp.block_diagonal_mlp`."""
    rows = x.reshape(-1, x.shape[-1])
    y = rows.new_empty(rows.shape)
    width, hidden = w2.shape[0] // groups, w1.shape[0] // groups
    parts = zip(_weights(w1, groups), _biases(b1, groups), _weights(w2, groups),
                _biases(b2, groups))
    for k, (w1k, b1k, w2k, b2k) in enumerate(parts):
        channels = slice(k * width, (k + 1) * width)
        for chunk in _chunks(len(rows), hidden, x.element_size()):
            h = _activate_(matmul_rows(rows[chunk, channels], w1k, b1k), act, scale, shift)
            y[chunk, channels] = matmul_rows(h, w2k, b2k)
    return torch.empty_like(x).copy_(y.view(x.shape)) if not x.is_contiguous() else y.view(x.shape)


def backward(grad: Tensor, x: Tensor, w1: Tensor, b1: Optional[Tensor], w2: Tensor,
             groups: int, act: str, scale: Optional[Tensor], shift: Optional[Tensor]
             ) -> Tuple[Tensor, ...]:
    """Gradients for ``x, w1, b1, w2, b2, scale, shift``; those of weights in float32 at least."""
    rows, grads = x.reshape(-1, x.shape[-1]), grad.reshape(-1, x.shape[-1])
    exact = torch.promote_types(x.dtype, torch.float32)
    dx = rows.new_empty(rows.shape)
    dw1, dw2 = torch.zeros_like(w1, dtype=exact), torch.zeros_like(w2, dtype=exact)
    db1 = dw1.new_zeros(len(w1))
    dscale, dshift = dw1.new_zeros(1), dw1.new_zeros(1)
    width, hidden = w2.shape[0] // groups, w1.shape[0] // groups
    parts = zip(_weights(w1, groups), _biases(b1, groups), _weights(w2, groups),
                _weights(dw1, groups), _biases(db1, groups), _weights(dw2, groups))
    for k, (w1k, b1k, w2k, dw1k, db1k, dw2k) in enumerate(parts):
        channels = slice(k * width, (k + 1) * width)
        w1t, w2t = w1k.t().contiguous(), w2k.t().contiguous()
        for chunk in _chunks(len(rows), hidden, x.element_size()):
            xk, gk = rows[chunk, channels].contiguous(), grads[chunk, channels].contiguous()
            h = matmul_rows(xk, w1k, b1k)
            dh = matmul_rows(gk, w2t)
            if act == 'star_relu':
                dscale += (h.relu().square_() * dh).sum(dtype=exact)
                dshift += dh.sum(dtype=exact)
            dw2k += outer_rows(gk, _activate_(h.clone(), act, scale, shift))
            _activate_backward_(dh, h, act, scale)
            dw1k += outer_rows(dh, xk)
            db1k += dh.sum(0, dtype=exact)
            dx[chunk, channels] = matmul_rows(dh, w1t)
    db2 = grads.sum(0, dtype=exact)
    if not x.is_contiguous():
        dx = torch.empty_like(x).copy_(dx.view(x.shape))
    return dx.view(x.shape), dw1, db1, dw2, db2, dscale, dshift
