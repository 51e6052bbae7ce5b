"""The C++ functions on tensors: float32 on the CPU."""
from typing import Any, Optional, Tuple

import torch
from torch import Tensor

from ..operator import gradient_sizes
from .build import library

__all__ = [
    'backward', 'covariance_attention', 'covariance_backward', 'covariance_forward', 'forward'
]

_ACTIVATIONS = ('gelu', 'silu', 'relu', 'star_relu')  # in the order of the enumeration there


def _call(name: str, *arguments: Any) -> None:
    values = []
    for a in arguments:
        # Because C++ sees an address alone, and would read other memory.
        if isinstance(a, Tensor) and (a.dtype != torch.float32 or not a.is_contiguous()):
            raise TypeError(f'{name}: expected contiguous float32, found {a.dtype} of shape '
                            f'{tuple(a.shape)} with strides {a.stride()}')
        values.append(a.data_ptr() if isinstance(a, Tensor) else a)
    if getattr(library(), name)(*values, torch.get_num_threads()):
        raise RuntimeError(f'{name}: not enough memory')


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1]).contiguous()


def _number(x: Optional[Tensor], default: float) -> float:
    return default if x is None else float(x)


def _in_order(like: Tensor) -> Tuple[Tensor, Tensor]:
    """Return an output with the strides of ``like``, and the contiguous one that is computed."""
    out = torch.empty_like(like)
    return out, out if out.is_contiguous() else out.new_empty(out.shape)


def forward(x: Tensor, w1: Tensor, b1: Optional[Tensor], w2: Tensor, b2: Optional[Tensor],
            groups: int, act: str, scale: Optional[Tensor], shift: Optional[Tensor],
            gain: Optional[Tensor]) -> Tensor:
    """See :func:`mmscheme.ops.mlp.block_diagonal_mlp`."""
    rows, (y, out) = _rows(x), _in_order(x)
    w1, b1, w2, b2 = (None if t is None else t.contiguous() for t in (w1, b1, w2, b2))
    _call('mmscheme_mlp_forward', rows, w1, b1, w2, b2, out, len(rows), groups, w1.shape[1],
          w2.shape[1], _ACTIVATIONS.index(act), _number(scale, 1), _number(shift, 0),
          _number(gain, 1))
    return y if out is y else y.copy_(out)


def backward(grad: Tensor, x: Tensor, w1: Tensor, b1: Optional[Tensor], w2: Tensor, groups: int,
             act: str, scale: Optional[Tensor], shift: Optional[Tensor],
             b2: Optional[Tensor] = None, gain: Optional[Tensor] = None) -> Tuple[Tensor, ...]:
    """Return gradients for ``x``, all others (see ``gradient_sizes``), ``b2`` and the gain.

    The last one needs ``b2``.
    """
    rows, gradient, (dx, out) = _rows(x), _rows(grad), _in_order(x)
    w1, b1, w2, b2 = (None if t is None else t.contiguous() for t in (w1, b1, w2, b2))
    sizes = gradient_sizes(w1, w2, act)
    sums, db2, dgain = w1.new_empty(sum(sizes)), w2.new_empty(len(w2)), w1.new_empty(1)
    dw1, dw2, db1, *star = sums.split(sizes)
    dscale, dshift = star or (w1.new_empty(1), w1.new_empty(1))
    _call('mmscheme_mlp_backward', gradient, rows, w1, b1, w2, b2, out, dw1, db1, dw2, db2,
          dscale, dshift, dgain, len(rows), groups, w1.shape[1], w2.shape[1],
          _ACTIVATIONS.index(act), _number(scale, 1), _number(shift, 0), _number(gain, 1))
    return dx if out is dx else dx.copy_(out), sums, db2, dgain


def covariance_attention(x: Tensor, tau: float) -> Tensor:
    """Compute ``softmax(tau * X^T X)`` of tokens ``(B, N, C)``, transposed: ``(B, C, C)``."""
    attention = x.new_empty((x.shape[0], x.shape[2], x.shape[2]))
    _call('mmscheme_cca_attention', x.contiguous(), attention, *x.shape, tau)
    return attention


def covariance_forward(x: Tensor, attention: Tensor, y: Optional[Tensor] = None,
                       weight: float = 1) -> Tensor:
    """Channel covariance attention of tokens.

    Args:
        x: ``(B, N, C)``.
        attention: Of :func:`covariance_attention`.
        y: Where the output is added; it is written to new memory else.
        weight: Factor of the output.

    Returns:
        ``(B, N, C)``.
    """
    given = y is not None
    if y is None:
        y = torch.empty_like(x)
    out = y.contiguous()
    _call('mmscheme_cca_forward', x.contiguous(), attention, out, *x.shape, weight, given)
    return y if out is y else y.copy_(out)


def covariance_backward(grad: Tensor, x: Tensor, attention: Tensor, tau: float,
                        dx: Optional[Tensor] = None, weight: float = 1
                        ) -> Tuple[Tensor, Tensor]:
    """Return gradients for ``x``, added to ``dx`` where that is given, and for the weight."""
    given = dx is not None
    if dx is None:
        dx = torch.empty_like(x)
    out = dx.contiguous()
    dweight = x.new_empty(1)
    _call('mmscheme_cca_backward', grad.contiguous(), x.contiguous(), attention, out, dweight,
          *x.shape, tau, weight, given)
    return dx if out is dx else dx.copy_(out), dweight
