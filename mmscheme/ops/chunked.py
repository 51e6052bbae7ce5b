"""The block-diagonal FFN a group and a chunk of tokens at a time, its hidden map in the cache.

Each group's hidden values are computed, used and forgotten while they are in the cache; the
backward pass computes them again. Nothing of the hidden width is kept or goes to memory.
"""
from typing import Any, Iterator, List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .pointwise import as_image, outer

__all__ = ['backward', 'forward']

# Groups narrower than this are computed one by one in the forward pass too.
_NARROW = 32
# Bytes of a hidden chunk at most, of one group and of all; docs/performance.md says what other
# sizes did.
_ALONE, _TOGETHER = 4 * 2**20, 8 * 2**20


def _activate_(h: Tensor, act: str, scale: Optional[Tensor], shift: Optional[Tensor]) -> Tensor:
    """Apply the activation in place."""
    if act == 'gelu':
        return torch.ops.aten.gelu_(h)
    if act == 'silu':
        return F.silu(h, inplace=True)
    h.relu_()
    return h if act == 'relu' else h.square_().mul_(scale).add_(shift)


def _activate_backward_(grad: Tensor, h: Tensor, act: str, scale: Any) -> Tensor:
    """Turn the gradient after the activation into that before it, in place."""
    aten = torch.ops.aten
    if act == 'gelu':
        return aten.gelu_backward.grad_input(grad, h, grad_input=grad)
    if act == 'silu':
        return aten.silu_backward.grad_input(grad, h, grad_input=grad)
    if act == 'relu':
        return aten.threshold_backward.grad_input(grad, h, 0, grad_input=grad)
    return grad.mul_(h.relu()).mul_(2 * scale)


def _image(x: Tensor) -> Tensor:
    """View tokens ``(B, N, C)`` as a channels-last map ``(b, C, n, 1)``."""
    return as_image(x.reshape(-1, x.shape[-1]))


def _chunks(image: Tensor, width: int, limit: int) -> Iterator[Tuple[int, int]]:
    """Start and length of even parts of a map's height, hidden ones of ``limit`` bytes at most."""
    batch, _, height, _ = image.shape
    count = -(-batch * height * width * image.element_size() // limit)
    step = -(-height // count)
    for start in range(0, height, step):
        yield start, min(step, height - start)


def _split(weight: Tensor, bias: Optional[Tensor], groups: int
           ) -> List[Tuple[Tensor, Optional[Tensor]]]:
    """Return weights ``(o, i, 1, 1)`` and biases of the groups."""
    weights = weight.view(groups, -1, weight.shape[1], 1, 1)
    return [(w, b) for w, b in zip(weights, [None] * groups if bias is None else
                                   bias.view(groups, -1))]


def _in_order(image: Tensor) -> Tensor:
    """View a channels-last map as its memory lies."""
    return image.permute(0, 2, 3, 1)


def forward(x: Tensor, w1: Tensor, b1: Optional[Tensor], w2: Tensor, b2: Optional[Tensor],
            groups: int, act: str, scale: Optional[Tensor], shift: Optional[Tensor],
            gain: Optional[Tensor]) -> Tensor:
    """See :func:`mmscheme.ops.mlp.block_diagonal_mlp`."""
    y = torch.empty_like(x)
    rows = y if y.is_contiguous() else y.new_empty(y.shape)
    # oneDNN is slow at grouped convolutions of narrow groups.
    alone = w1.shape[1] < _NARROW
    pieces, each = (groups, 1) if alone else (1, groups)
    layers = list(zip(_split(w1, b1, pieces), _split(w2, b2, pieces)))
    source, target = _image(x), _image(rows)
    for start, length in _chunks(source, len(w1) // pieces, _ALONE if alone else _TOGETHER):
        parts = zip(*(m.narrow(2, start, length).split(len(w2) // pieces, 1)
                      for m in (source, target)), layers)
        for xk, yk, ((w1k, b1k), (w2k, b2k)) in parts:
            h = F.conv2d(xk.contiguous(memory_format=torch.channels_last), w1k, b1k, groups=each)
            _activate_(_in_order(h), act, scale, shift)
            out = F.conv2d(h, w2k, b2k, groups=each)
            if gain is None:
                yk.copy_(out)
            else:
                torch.mul(out, gain, out=yk)
    return y if rows is y else y.copy_(rows)


def backward(grad: Tensor, x: Tensor, w1: Tensor, b1: Optional[Tensor], w2: Tensor,
             groups: int, act: str, scale: Optional[Tensor], shift: Optional[Tensor]
             ) -> Tuple[Tensor, Tensor, Tensor]:
    """Return gradients for ``x``, all others (see ``gradient_sizes``) and ``b2``.

    All but the first are float32 at least.
    """
    exact = torch.promote_types(x.dtype, torch.float32)
    dx = torch.empty_like(x)
    rows = dx if dx.is_contiguous() else dx.new_empty(dx.shape)
    width, hidden = w2.shape[0] // groups, w1.shape[0] // groups
    # Both (hidden, width): oneDNN is faster at the products with the wide side first.
    dw1, dw2 = (w1.new_zeros((groups, hidden, width), dtype=exact) for _ in range(2))
    db1 = w1.new_zeros((groups, hidden), dtype=exact)
    dscale, dshift = dw1.new_zeros(1), dw1.new_zeros(1)
    first, second = _split(w1, b1, groups), _split(w2, None, groups)
    turned = [(w1k.transpose(0, 1).contiguous(), w2k.transpose(0, 1).contiguous())
              for (w1k, _), (w2k, _) in zip(first, second)]
    source, grads, target = _image(x), _image(grad), _image(rows)
    for start, length in _chunks(source, hidden, _ALONE):
        parts = zip(*(m.narrow(2, start, length).split(width, 1)
                      for m in (source, grads, target)), first, turned)
        for k, (xk, gk, out, (w1k, b1k), (w1t, w2t)) in enumerate(parts):
            xk = xk.contiguous(memory_format=torch.channels_last)
            gk = gk.contiguous(memory_format=torch.channels_last)
            # Each map is used up while it is in the cache.
            h = F.conv2d(xk, w1k, b1k)
            pre = _in_order(h)
            a = F.gelu(pre) if act == 'gelu' else _activate_(pre.clone(), act, scale, shift)
            dw2[k] += outer(a.permute(0, 3, 1, 2), gk)
            del a
            dh = F.conv2d(gk, w2t)
            slope = _in_order(dh)
            if act == 'star_relu':
                dscale += (pre.relu().square_() * slope).sum(dtype=exact)
                dshift += slope.sum(dtype=exact)
            _activate_backward_(slope, pre, act, scale)
            dw1[k] += outer(dh, xk)
            db1[k] += slope.sum((0, 1, 2), dtype=exact)
            out.copy_(F.conv2d(dh, w1t))
    if rows is not dx:
        dx.copy_(rows)
    found = [dw1, dw2.transpose(1, 2), db1, *([dscale, dshift] if act == 'star_relu' else [])]
    return dx, torch.cat([g.flatten() for g in found]), grad.sum((0, 1), dtype=exact)
