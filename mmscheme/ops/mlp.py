"""The block-diagonal FFN as one operator, whose hidden map is never kept."""
from typing import Any, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from . import chunked
from .batched import batched_mlp
from .cpu import operators as native

__all__ = ['block_diagonal_mlp']


def _kernels(name: str) -> Any:
    if name == 'triton':
        from . import triton_mlp
        return triton_mlp
    return native if name == 'native' else chunked


@torch.library.custom_op('mmscheme::block_diagonal_mlp', mutates_args=())
def _mlp(x: Tensor, w1: Tensor, b1: Optional[Tensor], w2: Tensor, b2: Optional[Tensor],
         groups: int, act: str, scale: Optional[Tensor], shift: Optional[Tensor],
         implementation: str, gain: Optional[Tensor] = None) -> Tensor:
    return _kernels(implementation).forward(x, w1, b1, w2, b2, groups, act, scale, shift, gain)


@torch.library.custom_op('mmscheme::block_diagonal_mlp_backward', mutates_args=())
def _mlp_backward(grad: Tensor, x: Tensor, w1: Tensor, b1: Optional[Tensor], w2: Tensor,
                  groups: int, act: str, scale: Optional[Tensor], shift: Optional[Tensor],
                  implementation: str
                  ) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    with torch.autocast(x.device.type, enabled=False):  # as in the forward pass
        return _kernels(implementation).backward(grad, x, w1, b1, w2, groups, act, scale,
                                                 shift)[:7]


@_mlp.register_fake
def _(x: Tensor, *args: Any) -> Tensor:
    return torch.empty_like(x)


@_mlp_backward.register_fake
def _(grad: Tensor, x: Tensor, w1: Tensor, b1: Optional[Tensor], w2: Tensor, *args: Any
      ) -> Tuple[Tensor, ...]:
    exact = torch.promote_types(x.dtype, torch.float32)

    def new(*shape: int) -> Tensor:
        return x.new_empty(shape, dtype=exact)

    return (torch.empty_like(x), new(*w1.shape), new(w1.shape[0]), new(*w2.shape),
            new(w2.shape[0]), new(1), new(1))


def _save(ctx: Any, inputs: Tuple[Any, ...], output: Tensor) -> None:
    x, w1, b1, w2, b2, ctx.groups, ctx.act, scale, shift, ctx.implementation, _ = inputs
    ctx.save_for_backward(x, w1, b1, w2, b2, scale, shift)


def _differentiate(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
    x, w1, b1, w2, b2, scale, shift = ctx.saved_tensors
    found = _mlp_backward(grad, x, w1, b1, w2, ctx.groups, ctx.act, scale, shift,
                          ctx.implementation)
    dx, dw1, db1, dw2, db2, dscale, dshift = (
        None if t is None else g.to(t.dtype) for t, g in zip((x, w1, b1, w2, b2, scale, shift),
                                                             found))
    return dx, dw1, db1, dw2, db2, None, None, dscale, dshift, None, None


_mlp.register_autograd(_differentiate, setup_context=_save)


def _forward_flops(x: Sequence[int], w1: Sequence[int], b1: Any, w2: Sequence[int], *args: Any,
                   **kwargs: Any) -> int:
    """Count FLOPs of the two layers from the shapes."""
    return 2 * x[0] * x[1] * (w1[0] * w1[1] + w2[0] * w2[1])


register_flop_formula(torch.ops.mmscheme.block_diagonal_mlp)(_forward_flops)


@register_flop_formula(torch.ops.mmscheme.block_diagonal_mlp_backward)
def _backward_flops(grad: Sequence[int], x: Sequence[int], w1: Sequence[int], b1: Any,
                    w2: Sequence[int], *args: Any, **kwargs: Any) -> int:
    # Twice the forward pass, and the first layer once more.
    return 2 * _forward_flops(x, w1, b1, w2) + 2 * x[0] * x[1] * w1[0] * w1[1]


def block_diagonal_mlp(x: Tensor, w1: Tensor, b1: Optional[Tensor], w2: Tensor,
                       b2: Optional[Tensor], groups: int, act: str,
                       scale: Optional[Tensor] = None, shift: Optional[Tensor] = None,
                       implementation: str = 'chunked', gain: Optional[Tensor] = None) -> Tensor:
    """Apply two block-diagonal layers of as many blocks, with an activation between.

    The backward pass computes the hidden values again; there is no second derivative.
    Under autocast everything is computed in its dtype, products are summed in float32.

    Args:
        x: A map ``(B, C, H, W)``, tokens ``(B, N, C)`` or ``(N, C)``, with any strides.
        w1: ``(hidden, C / groups)``, the blocks stacked.
        b1: ``(hidden,)`` or None.
        w2: ``(C, hidden / groups)``.
        b2: ``(C,)`` or None.
        groups: Blocks of each layer.
        act: One of :data:`mmscheme.ops.ACTIVATIONS`.
        scale, shift: One value each, for ``'star_relu'``.
        implementation: ``'batched'``, ``'chunked'``, ``'native'`` or ``'triton'``.
        gain: A number that multiplies the output.

    Returns:
        The shape and the memory format of ``x``.
    """
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(x.device.type)
        x, w1, w2 = x.to(dtype), w1.to(dtype), w2.to(dtype)
        b1, b2, scale, shift = (None if t is None else t.to(dtype) for t in (b1, b2, scale, shift))
    if x.dim() == 4:
        tokens = x.flatten(2).transpose(1, 2)
    else:
        tokens = x if x.dim() == 3 else x.flatten(0, -2)[None]
    # The operator multiplies in passing, but has no gradient for it.
    after = gain if torch.is_grad_enabled() or implementation == 'batched' else None
    with torch.autocast(x.device.type, enabled=False):  # what is computed has its dtype already
        if implementation == 'batched':
            y = batched_mlp(tokens, w1, b1, w2, b2, groups, act, scale, shift)
        else:
            y = _mlp(tokens, w1, b1, w2, b2, groups, act, scale, shift, implementation,
                     gain if after is None else None)
    y = y.transpose(1, 2).unflatten(2, x.shape[2:]) if x.dim() == 4 else y.view(x.shape)
    return y if after is None else after * y
