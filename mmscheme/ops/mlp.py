"""The block-diagonal FFN as one operator, whose hidden map is never kept."""
from typing import Any, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from . import chunked
from .batched import batched_mlp
from .cpu import operators as native
from .operator import cast, gradient_sizes, gradients, once_differentiable, operator

__all__ = ['block_diagonal_mlp']


def _kernels(name: str) -> Any:
    if name == 'triton':
        from . import triton_mlp
        return triton_mlp
    return native if name == 'native' else chunked


def _like_input(x: Tensor, *args: Any) -> Tensor:
    return torch.empty_like(x)


@operator('block_diagonal_mlp', _like_input)
def _mlp(x: Tensor, w1: Tensor, b1: Optional[Tensor], w2: Tensor, b2: Optional[Tensor],
         groups: int, act: str, scale: Optional[Tensor], shift: Optional[Tensor],
         implementation: str, gain: Optional[Tensor] = None) -> Tensor:
    return _kernels(implementation).forward(x, w1, b1, w2, b2, groups, act, scale, shift, gain)


def _fake_gradients(grad: Tensor, x: Tensor, w1: Tensor, b1: Optional[Tensor], w2: Tensor,
                    groups: int, act: str, *args: Any) -> Tuple[Tensor, Tensor, Tensor]:
    exact = torch.promote_types(x.dtype, torch.float32)
    return (torch.empty_like(x), x.new_empty(sum(gradient_sizes(w1, w2, act)), dtype=exact),
            x.new_empty(len(w2), dtype=exact))


@operator('block_diagonal_mlp_backward', _fake_gradients)
def _mlp_backward(grad: Tensor, x: Tensor, w1: Tensor, b1: Optional[Tensor], w2: Tensor,
                  groups: int, act: str, scale: Optional[Tensor], shift: Optional[Tensor],
                  implementation: str) -> Tuple[Tensor, Tensor, Tensor]:
    return _kernels(implementation).backward(grad, x, w1, b1, w2, groups, act, scale, shift)[:3]


class _FusedMLP(torch.autograd.Function):
    """The operator with its derivative; the weights are cast here, their gradients are exact."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, b1: Optional[Tensor], w2: Tensor,
                b2: Optional[Tensor], groups: int, act: str, scale: Optional[Tensor],
                shift: Optional[Tensor], implementation: str) -> Tensor:
        given = (w1, b1, w2, b2, scale, shift)
        ctx.dtypes = [None if t is None else t.dtype for t in given]
        w1, b1, w2, b2, scale, shift = cast(given, x.dtype)
        ctx.save_for_backward(x, w1, b1, w2, scale, shift)
        ctx.options = groups, act, implementation
        return _mlp(x, w1, b1, w2, b2, groups, act, scale, shift, implementation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        x, w1, b1, w2, scale, shift = ctx.saved_tensors
        groups, act, implementation = ctx.options
        with torch.autocast(x.device.type, enabled=False):  # as in the forward pass
            dx, sums, db2 = _mlp_backward(grad, x, w1, b1, w2, groups, act, scale, shift,
                                          implementation)
        dw1, db1, dw2, dscale, dshift = gradients(sums, w1, b1, w2, act)
        found = dw1, db1, dw2, db2, dscale, dshift
        dw1, db1, dw2, db2, dscale, dshift = (
            None if g is None or dtype is None else g.to(dtype)
            for g, dtype in zip(found, ctx.dtypes))
        return dx, dw1, db1, dw2, db2, None, None, dscale, dshift, None


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
        x = x.to(torch.get_autocast_dtype(x.device.type))
    if x.dim() == 4:
        tokens = x.flatten(2).transpose(1, 2)
    else:
        tokens = x if x.dim() == 3 else x.flatten(0, -2)[None]
    # The operator multiplies in passing, but has no gradient for it.
    after = gain if torch.is_grad_enabled() or implementation == 'batched' else None
    with torch.autocast(x.device.type, enabled=False):  # what is computed has its dtype already
        if implementation == 'batched':
            w1, b1, w2, b2, scale, shift = cast((w1, b1, w2, b2, scale, shift), x.dtype)
            y = batched_mlp(tokens, w1, b1, w2, b2, groups, act, scale, shift)
        elif torch.is_grad_enabled():
            y = _FusedMLP.apply(tokens, w1, b1, w2, b2, groups, act, scale, shift, implementation)
        else:
            w1, b1, w2, b2, scale, shift = cast((w1, b1, w2, b2, scale, shift), x.dtype)
            y = _mlp(tokens, w1, b1, w2, b2, groups, act, scale, shift, implementation, gain)
    y = y.transpose(1, 2).unflatten(2, x.shape[2:]) if x.dim() == 4 else y.view(x.shape)
    return y if after is None else after * y
