"""Decide which implementation computes a layer; nothing else does.

=============================================  ===============================================
where                                          what ``implementation='auto'`` takes
=============================================  ===============================================
``MMSCHEME_FUSED=0`` in the environment        plain, in the whole process
export, tracing, ``torch.func``, meta tensors  plain: other runtimes have no operators of ours
a part hooked, patched, replaced; dropout      plain: a fused operator would bypass it
other groups in the second layer, activation   plain
CPU, float32                                   native (C++)
CPU, float32, no compiler, or autocast         chunked
CPU, another dtype; other devices              plain
GPU, compute capability 8.0 or more            the fastest of triton, batched and plain, which
                                               are timed at the first input of a kind
                                               (:mod:`mmscheme.ops.measured`)
GPU, deterministic algorithms; the first       triton, without timing
input in a CUDA graph or a compiled model
GPU without Triton, or where its trial fails   plain, with a warning
=============================================  ===============================================

CCA is one operator except under export, with ``'plain'`` and beside class tokens; on a CPU in
float32 it is C++. The whole mixer of training is one C++ operator where both its parts are.
"""
import functools
import logging
import os
from typing import Any, Callable, Dict, Optional, Set

import torch
from torch import Tensor

from .cpu import build
from .measured import choose_fastest

__all__ = [
    'ACTIVATIONS', 'IMPLEMENTATIONS', 'choose_mlp', 'exporting', 'in_transform', 'is_fused_cca',
    'native_cannot'
]

#: What ``implementation=`` may be.
IMPLEMENTATIONS = ('auto', 'plain', 'batched', 'chunked', 'native', 'triton')
#: The activations that are fused: ``StarReLU`` is ``scale * relu(x) ** 2 + shift``.
ACTIVATIONS = ('gelu', 'silu', 'relu', 'star_relu')
#: The widest group that the Triton kernels take: a program holds all of its channels.
MAX_WIDTH = 256
#: Switches all fused implementations off for the process.
FUSED = os.environ.get('MMSCHEME_FUSED', '1') != '0'

# torch 2.6 does not tell an export from compiling: there, compiled code has no operators of ours.
_is_exporting = getattr(torch.compiler, 'is_exporting', torch.compiler.is_compiling)
# The transforms of torch.func need a rule for each operator; ours have those of autograd alone.
_transform = getattr(torch._C._functorch, 'peek_interpreter_stack', lambda: None)
_logger = logging.getLogger('mmscheme')
_said: Set[str] = set()


def exporting() -> bool:
    """Return True if the model is written down for another runtime, without our operators."""
    return (torch.jit.is_tracing() or torch.jit.is_scripting() or torch.onnx.is_in_onnx_export()
            or _is_exporting())


def in_transform() -> bool:
    """Return True in a transform of ``torch.func``; ``vmap`` knows no order of axes in memory."""
    return _transform() is not None


def _say_once(text: str, level: int = logging.INFO) -> None:
    if not torch.compiler.is_compiling() and text not in _said:
        _said.add(text)
        _logger.log(level, text)


def _must_be_plain(x: Tensor, wanted: str) -> bool:
    """Return True if no operator of ours may compute an input."""
    return (wanted == 'plain' or not FUSED or exporting() or in_transform()
            or x.numel() == 0 or x.is_meta)


def choose_mlp(x: Tensor, parts: Dict[str, Any], groups: int, wanted: str = 'auto',
               alternatives: Optional[Callable[[], Dict[str, Callable[[Tensor], Tensor]]]] = None
               ) -> str:
    """Return the implementation of a block-diagonal FFN for an input.

    Args:
        x: The input.
        parts: The arguments of :func:`~mmscheme.ops.block_diagonal_mlp` beside it; ``act`` is
            None for an activation that is not one of :data:`ACTIVATIONS`.
        groups: Blocks of the second layer.
        wanted: One of :data:`IMPLEMENTATIONS`.
        alternatives: Make the functions of the input to choose from by measurement, by name;
            without them ``'auto'`` takes Triton on a GPU.

    Returns:
        ``'plain'``, ``'batched'``, ``'chunked'``, ``'native'`` or ``'triton'``.
    """
    if _must_be_plain(x, wanted):
        return 'plain'
    automatic = wanted == 'auto'
    if automatic:
        if x.is_cuda:
            wanted = 'triton'
        elif x.dtype != torch.float32 or x.device.type != 'cpu':
            return 'plain'
        else:
            wanted = 'chunked' if native_cannot(x) else 'native'
    reason = None
    if parts['groups'] != groups:
        reason = f'the two layers have {parts["groups"]} and {groups} groups'
    elif parts['act'] is None:
        reason = 'its activation is not one of ' + ', '.join(ACTIVATIONS)
    elif wanted == 'triton':
        reason = _triton_cannot(x, parts['groups'])
    elif wanted == 'native':
        reason = native_cannot(x)
    if reason is not None:
        # A GPU without its kernels is worth a warning, other groups or activations are a choice.
        _say_once(f'block-diagonal FFN: not fused, {reason}',
                  logging.WARNING if wanted == 'triton' else logging.INFO)
        return 'plain'
    if automatic and wanted == 'triton' and alternatives is not None:
        return choose_fastest(x, parts, alternatives, stated='triton')
    _say_once(f'block-diagonal FFN on {x.device.type} in {x.dtype}: {wanted}')
    return wanted


def is_fused_cca(x: Tensor, implementation: str, num_extra_tokens: int = 0) -> bool:
    """Return True if channel covariance attention of an input is one operator."""
    return not num_extra_tokens and not _must_be_plain(x, implementation)


@torch.compiler.assume_constant_result
def _native_needs() -> Optional[str]:
    problem = build.problem()
    if problem is not None:
        _say_once(f'channel mixer: no native one, {problem}', logging.WARNING)
    return problem


def native_cannot(x: Tensor) -> Optional[str]:
    """Return why the C++ functions cannot take an input; None when they can."""
    if x.device.type != 'cpu' or x.dtype != torch.float32:
        return f'the native one does not take {x.dtype} on {x.device.type}'
    if torch.is_autocast_enabled('cpu'):
        return 'the native one computes in float32, whatever autocast asks for'
    return _native_needs()


@torch.compiler.assume_constant_result
@functools.cache
def _triton_needs(device_type: str, index: Optional[int]) -> Optional[str]:
    try:
        from . import triton_mlp
    except ImportError as e:
        return f'no Triton ({e})'
    return triton_mlp.needs(device_type, index)


def _triton_cannot(x: Tensor, groups: int) -> Optional[str]:
    """Return why the Triton kernels cannot take an input; None when they can."""
    width = (x.shape[1] if x.dim() == 4 else x.shape[-1]) // groups
    if width > MAX_WIDTH:
        return f'its groups have {width} channels, more than {MAX_WIDTH}'
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f'{x.dtype} on a GPU'
    return _triton_needs(x.device.type, x.device.index)
