"""Matrix products of tokens on the CPU, as the 1x1 convolutions that they are.

torch hands float32 matrix products to MKL and convolutions to oneDNN, which on processors
with AVX-512 that are not Intel's runs them about twice as fast.
"""
import torch
from torch import Tensor

__all__ = ['as_image', 'outer']

# With one thread torch takes oneDNN for 1x1 kernels from this batch size on.
_BATCH = 16


def as_image(rows: Tensor) -> Tensor:
    """View rows ``(n, c)`` as a channels-last map ``(b, c, n / b, 1)``."""
    n, c = rows.shape
    batch = _BATCH if n % _BATCH == 0 and torch.get_num_threads() == 1 else 1
    return rows.reshape(batch, n // batch, 1, c).permute(0, 3, 1, 2)


def outer(a: Tensor, b: Tensor) -> Tensor:
    """Sum the products of channels over positions: the gradient of a weight.

    Args:
        a: A map ``(b, o, h, w)``.
        b: A map ``(b, i, h, w)``.

    Returns:
        ``(o, i)``.
    """
    weight = a.new_empty(1).expand(a.shape[1], b.shape[1], 1, 1)
    return torch.ops.aten.convolution_backward(
        a, b, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1,
        [False, True, False])[1][:, :, 0, 0]
