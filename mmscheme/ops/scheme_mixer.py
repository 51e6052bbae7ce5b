"""The whole mixer of training as one operator, which keeps nothing but its input."""
from typing import Any, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from . import covariance, mlp
from .cpu import operators as native
from .operator import gradient_sizes, gradients, once_differentiable, operator

__all__ = ['scheme_mixer']


def _like_input(x: Tensor, *args: Any) -> Tensor:
    return torch.empty_like(x)


@operator('scheme_mixer', _like_input)
def _mix(x: Tensor, w1: Tensor, b1: Optional[Tensor], w2: Tensor, b2: Optional[Tensor],
         groups: int, act: str, scale: Optional[Tensor], shift: Optional[Tensor], alpha: Tensor,
         tau: float) -> Tensor:
    y = native.forward(x, w1, b1, w2, b2, groups, act, scale, shift, alpha)
    attention = native.covariance_attention(x, tau)
    return native.covariance_forward(x, attention, y, 1 - float(alpha))


def _fake_gradients(grad: Tensor, x: Tensor, w1: Tensor, b1: Optional[Tensor], w2: Tensor,
                    b2: Optional[Tensor], groups: int, act: str, *args: Any
                    ) -> Tuple[Tensor, ...]:
    return (torch.empty_like(x), x.new_empty(sum(gradient_sizes(w1, w2, act))),
            x.new_empty(len(w2)), x.new_empty(1))


@operator('scheme_mixer_backward', _fake_gradients)
def _mix_backward(grad: Tensor, x: Tensor, w1: Tensor, b1: Optional[Tensor], w2: Tensor,
                  b2: Optional[Tensor], groups: int, act: str, scale: Optional[Tensor],
                  shift: Optional[Tensor], alpha: Tensor, tau: float
                  ) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    dx, sums, db2, dalpha = native.backward(grad, x, w1, b1, w2, groups, act, scale, shift, b2,
                                            alpha)
    attention = native.covariance_attention(x, tau)
    dx, dweight = native.covariance_backward(grad, x, attention, tau, dx, 1 - float(alpha))
    return dx, sums, db2, dalpha - dweight


class _FusedMixer(torch.autograd.Function):
    """The operator with its derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, b1: Optional[Tensor], w2: Tensor,
                b2: Optional[Tensor], groups: int, act: str, scale: Optional[Tensor],
                shift: Optional[Tensor], alpha: Tensor, tau: float) -> Tensor:
        ctx.save_for_backward(x, w1, b1, w2, b2, scale, shift, alpha)
        ctx.options = groups, act, tau
        return _mix(x, w1, b1, w2, b2, groups, act, scale, shift, alpha, tau)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        x, w1, b1, w2, b2, scale, shift, alpha = ctx.saved_tensors
        groups, act, tau = ctx.options
        dx, sums, db2, dalpha = _mix_backward(grad, x, w1, b1, w2, b2, groups, act, scale, shift,
                                              alpha, tau)
        dw1, db1, dw2, dscale, dshift = gradients(sums, w1, b1, w2, act)
        return (dx, dw1, db1, dw2, None if b2 is None else db2, None, None, dscale, dshift,
                dalpha.view(alpha.shape), None)


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
    y = _FusedMixer.apply(tokens, w1, b1, w2, b2, groups, act, scale, shift, alpha, tau)
    return y.transpose(1, 2).unflatten(2, x.shape[2:]) if x.dim() == 4 else y
