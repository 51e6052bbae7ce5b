"""Token mixers of the MetaFormer family, on feature maps ``(B, C, H, W)``."""
from numbers import Integral
from typing import Callable, Dict

import torch.nn.functional as F
from torch import Tensor, nn

from mmscheme.ops import exporting
from mmscheme.utils.check_args import check_count, check_number

from .block_diagonal import block_diagonal_linear
from .fusable import is_plain

__all__ = ['TOKEN_MIXERS', 'Pooling', 'SelfAttention']


class Pooling(nn.Module):
    """Average pooling minus the input (PoolFormer); without parameters.

    Args:
        embed_dims: Not used, but all token mixers take it.
        pool_size: Odd size of the window; positions outside the map do not count.
    """

    def __init__(self, embed_dims: int, *, pool_size: int = 3) -> None:
        super().__init__()
        check_number('pool_size', pool_size, 'an odd number', lambda n: n >= 1 and n % 2 == 1,
                     Integral)
        self.pool = nn.AvgPool2d(pool_size, 1, pool_size // 2, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or not exporting() and 0 in x.shape[1:]:
            raise ValueError(f'expected a map (B, C, H, W), found shape {tuple(x.shape)}')
        return self.pool(x) - x


class SelfAttention(nn.Module):
    """Multi-head self-attention over all positions of a map.

    Args:
        embed_dims: Channels, a multiple of ``head_dims``.
        head_dims: Channels per head; scores are scaled by ``head_dims ** -0.5``.

    Raises:
        ValueError: ``embed_dims`` is not a multiple of ``head_dims``.
    """

    def __init__(self, embed_dims: int, *, head_dims: int = 32) -> None:
        super().__init__()
        for name, number in (('embed_dims', embed_dims), ('head_dims', head_dims)):
            check_count(name, number)
        if embed_dims % head_dims:
            raise ValueError(f'embed_dims={embed_dims} of an attention stage is not a multiple '
                             f'of its head width {head_dims}')
        self.head_dims = head_dims
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=False)
        self.proj = nn.Linear(embed_dims, embed_dims)
        nn.init.trunc_normal_(self.qkv.weight, std=0.02)
        nn.init.trunc_normal_(self.proj.weight, std=0.02)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[1] != self.qkv.in_features:
            raise ValueError(f'expected a map of {self.qkv.in_features} channels (B, C, H, W), '
                             f'found shape {tuple(x.shape)}')
        # (B, N, 3C) -> three of (B, heads, N, head_dims)
        q, k, v = _project(x, self.qkv).flatten(2).transpose(1, 2).unflatten(
            2, (3, -1, self.head_dims)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return _project(y.transpose(1, 2).unflatten(2, x.shape[2:]), self.proj)


def _project(x: Tensor, linear: nn.Linear) -> Tensor:
    """Apply a linear layer over the channels of a map."""
    if x.device.type == 'cpu' and not exporting() and is_plain(linear, nn.Linear):
        # oneDNN has the convolution, MKL the linear layer: see ops/pointwise.py.
        return block_diagonal_linear(x, linear.weight, linear.bias)
    return linear(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])


TOKEN_MIXERS: Dict[str, Callable[..., nn.Module]] = dict(pool=Pooling, attention=SelfAttention)
