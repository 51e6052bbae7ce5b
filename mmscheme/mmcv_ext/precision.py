"""The type that the operators compute in."""
import torch
from torch import Tensor

__all__ = ['precise']


def precise(x: Tensor) -> Tensor:
    """Return half precision as float32, where coordinates and logarithms need it."""
    return x if x.dtype == torch.float64 else x.float()
