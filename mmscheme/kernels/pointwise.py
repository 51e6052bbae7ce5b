"""Matrix products of tokens on the CPU, as the 1x1 convolutions that they are.

torch hands float32 matrix products to MKL and convolutions to oneDNN, which on processors
with AVX-512 that are not Intel's runs them about twice as fast.
"""
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ['matmul_rows', 'outer_rows']

# With one thread torch takes oneDNN for 1x1 kernels from this batch size on.
_BATCH = 16


def _image(rows: Tensor) -> Tensor:
    """Rows ``(n, c)`` as a channels-last map ``(b, c, n / b, 1)``."""
    n, c = rows.shape
    batch = _BATCH if n % _BATCH == 0 else 1
    return rows.reshape(batch, n // batch, 1, c).permute(0, 3, 1, 2)


def matmul_rows(rows: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """``rows @ weight.T + bias``.

    Args:
        rows: ``(n, i)``.
        weight: ``(o, i)``.
        bias: ``(o,)`` or None.

    Returns:
        ``(n, o)``, contiguous.
    """
    y = F.conv2d(_image(rows), weight[:, :, None, None], bias)
    return y.permute(0, 2, 3, 1).reshape(len(rows), len(weight))


def outer_rows(a: Tensor, b: Tensor) -> Tensor:
    """``a.T @ b``, the gradient of a weight.

    Args:
        a: ``(n, o)``.
        b: ``(n, i)``.

    Returns:
        ``(o, i)``.
    """
    weight = a.new_empty(1).expand(a.shape[1], b.shape[1], 1, 1)
    return torch.ops.aten.convolution_backward(
        _image(a), _image(b), weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1,
        [False, True, False])[1][:, :, 0, 0]
