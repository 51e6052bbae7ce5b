"""The block-diagonal FFN as one operator, whose hidden map is never kept."""
import logging
from typing import Any, Optional, Sequence, Set, Tuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from . import chunked
from .cpu import build
from .cpu import operators as native

__all__ = [
    'ACTIVATIONS', 'IMPLEMENTATIONS', 'block_diagonal_mlp', 'choose_implementation', 'exporting'
]

#: What ``implementation=`` may be.
IMPLEMENTATIONS = ('auto', 'plain', 'chunked', 'native', 'triton')
#: The activations that are fused: ``StarReLU`` is ``scale * relu(x) ** 2 + shift``.
ACTIVATIONS = ('gelu', 'silu', 'relu', 'star_relu')

#: The widest group that the Triton kernels take: a program holds all of its channels.
MAX_WIDTH = 256

# torch 2.6 does not tell an export from compiling: there, compiled code has no operators of ours.
_is_exporting = getattr(torch.compiler, 'is_exporting', torch.compiler.is_compiling)
_logger = logging.getLogger('mmscheme')
_said: Set[str] = set()


def exporting() -> bool:
    """Whether the model is written down for another runtime, which has not our operators."""
    return (torch.jit.is_tracing() or torch.jit.is_scripting() or torch.onnx.is_in_onnx_export()
            or _is_exporting())


def _say_once(text: str, level: int) -> None:
    if not torch.compiler.is_compiling() and text not in _said:
        _said.add(text)
        _logger.log(level, text)


def choose_implementation(x: Tensor, groups: Tuple[int, int], act: Optional[str],
                          wanted: str = 'auto') -> str:
    """The implementation for an input; where fusion is impossible that is ``'plain'``.

    Args:
        x: The input.
        groups: Blocks of the first and of the second layer.
        act: One of :data:`ACTIVATIONS`, or None for another one.
        wanted: One of :data:`IMPLEMENTATIONS`.

    Returns:
        ``'plain'``, ``'chunked'``, ``'native'`` or ``'triton'``.
    """
    if wanted == 'plain' or exporting() or x.numel() == 0:
        return 'plain'
    if wanted == 'auto':
        if x.is_cuda:
            wanted = 'triton'
        elif x.dtype != torch.float32 or x.device.type != 'cpu':
            return 'plain'
        else:
            wanted = 'chunked' if native_cannot(x) else 'native'
    reason = None
    if groups[0] != groups[1]:
        reason = f'the two layers have {groups[0]} and {groups[1]} groups'
    elif act is None:
        reason = 'its activation is not one of ' + ', '.join(ACTIVATIONS)
    elif wanted == 'triton':
        reason = _triton_cannot(x, groups[0])
    elif wanted == 'native':
        reason = native_cannot(x)
    if reason is None:
        return wanted
    # A GPU without its kernels is worth a warning, other groups or activations are a choice.
    _say_once(f'block-diagonal FFN: not fused, {reason}',
              logging.WARNING if wanted == 'triton' else logging.INFO)
    return 'plain'


@torch.compiler.assume_constant_result
def _native_needs() -> Optional[str]:
    problem = build.problem()
    if problem is not None:
        _say_once(f'channel mixer: no native one, {problem}', logging.WARNING)
    return problem


def native_cannot(x: Tensor) -> Optional[str]:
    """Why the C++ functions cannot take an input; None when they can."""
    if x.device.type != 'cpu' or x.dtype != torch.float32:
        return f'{x.dtype} on {x.device.type} is not for the native one'
    if torch.is_autocast_enabled('cpu'):
        return 'the native one computes in float32, not as autocast wants'
    return _native_needs()


@torch.compiler.assume_constant_result
def _triton_needs(device_type: str, index: Optional[int]) -> Optional[str]:
    try:
        from . import triton_mlp
    except ImportError as e:
        return f'no Triton ({e})'
    return triton_mlp.needs(device_type, index)


def _triton_cannot(x: Tensor, groups: int) -> Optional[str]:
    """Why the Triton kernels cannot take an input; None when they can."""
    width = (x.shape[1] if x.dim() == 4 else x.shape[-1]) // groups
    if width > MAX_WIDTH:
        return f'its groups have {width} channels, more than {MAX_WIDTH}'
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f'{x.dtype} on a GPU'
    return _triton_needs(x.device.type, x.device.index)


def _kernels(name: str) -> Any:
    if name == 'triton':
        from . import triton_mlp
        return triton_mlp
    return native if name == 'native' else chunked


@torch.library.custom_op('mmscheme::block_diagonal_mlp', mutates_args=())
def _mlp(x: Tensor, w1: Tensor, b1: Optional[Tensor], w2: Tensor, b2: Optional[Tensor],
         groups: int, act: str, scale: Optional[Tensor], shift: Optional[Tensor],
         implementation: str, gain: Optional[Tensor] = None) -> Tensor:
    # What is computed here has its dtype already.
    with torch.autocast(x.device.type, enabled=False):
        return _kernels(implementation).forward(x, w1, b1, w2, b2, groups, act, scale, shift,
                                                gain)


@torch.library.custom_op('mmscheme::block_diagonal_mlp_backward', mutates_args=())
def _mlp_backward(grad: Tensor, x: Tensor, w1: Tensor, b1: Optional[Tensor], w2: Tensor,
                  groups: int, act: str, scale: Optional[Tensor], shift: Optional[Tensor],
                  implementation: str
                  ) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    with torch.autocast(x.device.type, enabled=False):
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
    """FLOPs of the two layers from the shapes."""
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
    """Two block-diagonal layers of as many blocks, with an activation between.

    The backward pass computes the hidden values again; there is no second derivative.
    Under autocast everything is computed in its dtype, products are summed in float32.

    Args:
        x: A map ``(B, C, H, W)``, tokens ``(B, N, C)`` or ``(N, C)``, with any strides.
        w1: ``(hidden, C / groups)``, the blocks stacked.
        b1: ``(hidden,)`` or None.
        w2: ``(C, hidden / groups)``.
        b2: ``(C,)`` or None.
        groups: Blocks of each layer.
        act: One of :data:`ACTIVATIONS`.
        scale, shift: One value each, for ``'star_relu'``.
        implementation: ``'chunked'``, ``'native'`` or ``'triton'``.
        gain: A number that multiplies the output, where no gradient is wanted.

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
    y = _mlp(tokens, w1, b1, w2, b2, groups, act, scale, shift, implementation, gain)
    return y.transpose(1, 2).unflatten(2, x.shape[2:]) if x.dim() == 4 else y.view(x.shape)
