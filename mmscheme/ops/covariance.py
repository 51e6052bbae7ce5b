"""Channel covariance attention as one operator, which keeps the attention and not its inputs."""
from typing import Any, Sequence, Tuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .cpu import operators as native
from .dispatch import native_cannot
from .operator import once_differentiable, operator

__all__ = ['channel_covariance']

_HALF = (torch.float16, torch.bfloat16)
# From torch 2.8 on, on a GPU.
_MIXED_PRODUCTS = 'dtype' in torch.ops.aten.bmm.overloads()


def _outer(a: Tensor, b: Tensor, factor: float = 1.) -> Tensor:
    """Return ``factor * A^T B`` of each sample ``(N, C)``, in float32 at least."""
    if a.dtype in _HALF:
        # Products of 16-bit numbers that are summed and given as float32 need no copies of them.
        if a.is_cuda and _MIXED_PRODUCTS:
            return torch.bmm(a.transpose(1, 2), b, out_dtype=torch.float32).mul_(factor)
        a, b = a.float(), b.float()
    into = a.new_empty((a.shape[0], a.shape[2], b.shape[2]))
    return torch.baddbmm(into, a.transpose(1, 2), b, beta=0, alpha=factor)


def _fake_outputs(x: Tensor, tau: float, fused: bool) -> Tuple[Tensor, Tensor]:
    dtype = torch.float32 if x.dtype in _HALF else x.dtype
    return torch.empty_like(x), x.new_empty((x.shape[0], x.shape[2], x.shape[2]), dtype=dtype)


@operator('channel_covariance', _fake_outputs)
def _attend(x: Tensor, tau: float, fused: bool) -> Tuple[Tensor, Tensor]:
    if fused:
        attention = native.covariance_attention(x, tau)
        return native.covariance_forward(x, attention), attention
    attention = torch.softmax(_outer(x, x, tau), dim=-1)
    y = torch.empty_like(x)
    torch.bmm(x, attention.to(x.dtype).transpose(1, 2), out=y)
    return y, attention


def _like_input(grad: Tensor, x: Tensor, *args: Any) -> Tensor:
    return torch.empty_like(x)


@operator('channel_covariance_backward', _like_input)
def _attend_backward(grad: Tensor, x: Tensor, attention: Tensor, tau: float, fused: bool
                     ) -> Tensor:
    if fused:
        return native.covariance_backward(grad, x, attention, tau)[0]
    scores = torch._softmax_backward_data(_outer(grad, x), attention, -1, attention.dtype)
    # The Gram matrix is X^T X: its gradient reaches X from both sides.
    both = scores + scores.transpose(1, 2)
    dx = torch.empty_like(x)
    torch.bmm(grad, attention.to(x.dtype), out=dx)
    return dx.baddbmm_(x, both.to(x.dtype), alpha=tau)


class _FusedCCA(torch.autograd.Function):
    """The operator with its derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, tau: float, fused: bool) -> Tensor:
        y, attention = _attend(x, tau, fused)
        ctx.save_for_backward(x, attention)
        ctx.options = tau, fused
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, None, None]:
        x, attention = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            return _attend_backward(grad, x, attention, *ctx.options), None, None


@register_flop_formula(torch.ops.mmscheme.channel_covariance)
def _forward_flops(x: Sequence[int], *args: Any, **kwargs: Any) -> int:
    return 4 * x[0] * x[1] * x[2] * x[2]


@register_flop_formula(torch.ops.mmscheme.channel_covariance_backward)
def _backward_flops(grad: Sequence[int], *args: Any, **kwargs: Any) -> int:
    return 6 * grad[0] * grad[1] * grad[2] * grad[2]


def channel_covariance(x: Tensor, tau: float, implementation: str = 'auto') -> Tensor:
    """Compute ``softmax(tau * X^T X) X^T``, transposed, of tokens; without a second derivative.

    Args:
        x: ``(B, N, C)`` with any strides.
        tau: Factor of the Gram matrix, which is summed in float32 at least.
        implementation: ``'auto'`` and ``'native'`` take the C++ functions where they can.

    Returns:
        The shape, dtype and memory format of ``x``.
    """
    fused = implementation in ('auto', 'native') and native_cannot(x) is None
    with torch.autocast(x.device.type, enabled=False):
        if torch.is_grad_enabled():
            return _FusedCCA.apply(x, tau, fused)
        return _attend(x, tau, fused)[0]
