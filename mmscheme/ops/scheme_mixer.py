"""The whole mixer of training as one operator, which keeps nothing but its input."""
from typing import Any, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from . import covariance, mlp
from .cpu import operators as native

__all__ = ['scheme_mixer']


@torch.library.custom_op('mmscheme::scheme_mixer', mutates_args=())
def _mix(x: Tensor, w1: Tensor, b1: Optional[Tensor], w2: Tensor, b2: Optional[Tensor],
         groups: int, act: str, scale: Optional[Tensor], shift: Optional[Tensor], alpha: Tensor,
         tau: float) -> Tensor:
    y = native.forward(x, w1, b1, w2, b2, groups, act, scale, shift, alpha)
    attention = native.covariance_attention(x, tau)
    return native.covariance_forward(x, attention, y, 1 - float(alpha))


@torch.library.custom_op('mmscheme::scheme_mixer_backward', mutates_args=())
def _mix_backward(grad: Tensor, x: Tensor, w1: Tensor, b1: Optional[Tensor], w2: Tensor,
                  b2: Optional[Tensor], groups: int, act: str, scale: Optional[Tensor],
                  shift: Optional[Tensor], alpha: Tensor, tau: float
                  ) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    dx, *others, dalpha = native.backward(grad, x, w1, b1, w2, groups, act, scale, shift, b2,
                                          alpha)
    attention = native.covariance_attention(x, tau)
    dx, dweight = native.covariance_backward(grad, x, attention, tau, dx, 1 - float(alpha))
    return (dx, *others, dalpha - dweight)


@_mix.register_fake
def _(x: Tensor, *args: Any) -> Tensor:
    return torch.empty_like(x)


@_mix_backward.register_fake
def _(grad: Tensor, x: Tensor, w1: Tensor, b1: Optional[Tensor], w2: Tensor, *args: Any
      ) -> Tuple[Tensor, ...]:
    return (torch.empty_like(x), x.new_empty(w1.shape), x.new_empty(len(w1)),
            x.new_empty(w2.shape), x.new_empty(len(w2)), *(x.new_empty(1) for _ in range(3)))


def _save(ctx: Any, inputs: Tuple[Any, ...], output: Tensor) -> None:
    x, w1, b1, w2, b2, ctx.groups, ctx.act, scale, shift, alpha, ctx.tau = inputs
    ctx.save_for_backward(x, w1, b1, w2, b2, scale, shift, alpha)


def _differentiate(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
    x, w1, b1, w2, b2, scale, shift, alpha = ctx.saved_tensors
    found = _mix_backward(grad, x, w1, b1, w2, b2, ctx.groups, ctx.act, scale, shift, alpha,
                          ctx.tau)
    dx, dw1, db1, dw2, db2, dscale, dshift, dalpha = (
        None if t is None else g.view(t.shape)
        for t, g in zip((x, w1, b1, w2, b2, scale, shift, alpha), found))
    return dx, dw1, db1, dw2, db2, None, None, dscale, dshift, dalpha, None


_mix.register_autograd(_differentiate, setup_context=_save)


@register_flop_formula(torch.ops.mmscheme.scheme_mixer)
def _forward_flops(x: Sequence[int], w1: Sequence[int], b1: Any, w2: Sequence[int], *args: Any,
                   **kwargs: Any) -> int:
    return mlp._forward_flops(x, w1, b1, w2) + covariance._forward_flops(x)


@register_flop_formula(torch.ops.mmscheme.scheme_mixer_backward)
def _backward_flops(grad: Sequence[int], x: Sequence[int], w1: Sequence[int], b1: Any,
                    w2: Sequence[int], *args: Any, **kwargs: Any) -> int:
    # The attention is computed again.
    return (mlp._backward_flops(grad, x, w1, b1, w2) + covariance._backward_flops(grad)
            + covariance._forward_flops(x) // 2)


def scheme_mixer(x: Tensor, w1: Tensor, b1: Optional[Tensor], w2: Tensor, b2: Optional[Tensor],
                 groups: int, act: str, scale: Optional[Tensor], shift: Optional[Tensor],
                 alpha: Tensor, tau: float) -> Tensor:
    """Compute ``alpha * FFN(x) + (1 - alpha) * CCA(x)`` in float32 on the CPU.

    Only the input is kept for the backward pass, which computes hidden values and attention
    again. There is no second derivative.

    Args:
        x: A map ``(B, C, H, W)`` or tokens ``(B, N, C)``.
        w1, b1, w2, b2, groups, act, scale, shift: As for
            :func:`~mmscheme.ops.block_diagonal_mlp`.
        alpha: One value.
        tau: Factor of the Gram matrix.

    Returns:
        The shape and the memory format of ``x``.
    """
    tokens = x.flatten(2).transpose(1, 2) if x.dim() == 4 else x
    y = _mix(tokens, w1, b1, w2, b2, groups, act, scale, shift, alpha, tau)
    return y.transpose(1, 2).unflatten(2, x.shape[2:]) if x.dim() == 4 else y
