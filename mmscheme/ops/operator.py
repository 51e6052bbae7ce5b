"""Define operators that compilers and FLOP counters see as one."""
import functools
from typing import Any, Callable, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

__all__ = ['cast', 'gradient_sizes', 'gradients', 'once_differentiable', 'operator']


def cast(tensors: Sequence[Optional[Tensor]], dtype: torch.dtype) -> List[Optional[Tensor]]:
    """Return tensors in a dtype and contiguous, because kernels see addresses alone."""
    return [None if t is None else t.to(dtype).contiguous() for t in tensors]


def gradient_sizes(w1: Tensor, w2: Tensor, act: str) -> List[int]:
    """Return how many values the gradients of an FFN have, as they lie one after the other.

    They are those of ``w1``, ``w2``, ``b1`` and, for StarReLU, of its scale and shift.
    """
    return [w1.numel(), w2.numel(), len(w1), *([1, 1] if act == 'star_relu' else [])]


def gradients(sums: Tensor, w1: Tensor, b1: Optional[Tensor], w2: Tensor, act: str
              ) -> Tuple[Tensor, Optional[Tensor], Tensor, Optional[Tensor], Optional[Tensor]]:
    """View gradients of ``w1, b1, w2, scale, shift`` in what :func:`gradient_sizes` describes."""
    dw1, dw2, db1, *star = sums.split(gradient_sizes(w1, w2, act))
    dscale, dshift = star or (None, None)
    return (dw1.view(w1.shape), None if b1 is None else db1, dw2.view(w2.shape), dscale, dshift)


class _Refused(torch.autograd.Function):
    """Gradients as they are, whose own derivative is an error."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Optional[Tensor]) -> Tuple[Any, ...]:
        return tuple(t if t is None else t.view_as(t) for t in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError("mmscheme: the fused operators have no second derivative; those of "
                           "implementation='plain' have")


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Make a second derivative an error.

    That of ``torch.autograd.function`` leaves it out in silence where the gradient that comes in
    needs none, as at the end of a gradient penalty.
    """
    @functools.wraps(backward)
    def once(ctx: Any, *grads: Tensor) -> Any:
        with torch.no_grad():
            found = backward(ctx, *grads)
        if not torch.is_grad_enabled():
            return found
        return _Refused.apply(len(found), *found, *grads, *ctx.saved_tensors)
    return once


def operator(name: str, fake: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Register a function as the operator ``mmscheme::name``, which has no derivative of its own.

    The derivative is that of a ``torch.autograd.Function`` around it, because one that is
    registered with the operator costs more of the host's time. For the same reason it is not a
    ``torch.library.custom_op``.

    Args:
        name: Its name.
        fake: Make outputs of the right shapes, dtypes and strides without computing them.

    Returns:
        A decorator that returns the operator.
    """
    def register(function: Callable[..., Any]) -> Any:
        qualified = f'mmscheme::{name}'
        torch.library.define(qualified, torch.library.infer_schema(function, mutates_args=()))
        torch.library.impl(qualified, 'default', function)
        torch.library.register_fake(qualified, fake)
        return getattr(torch.ops.mmscheme, name).default
    return register
