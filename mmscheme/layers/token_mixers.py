"""Token mixers, on feature maps ``(B, C, H, W)``, or tokens where it is said."""
from numbers import Integral
from typing import Callable, Dict

import torch.nn.functional as F
from torch import Tensor, nn

from mmscheme.ops import exporting
from mmscheme.utils.check_args import check_count, check_number

from .block_diagonal import block_diagonal_linear
from .fusable import is_plain

__all__ = ['TOKEN_MIXERS', 'GroupedQueryAttention', 'Pooling', 'SelfAttention']


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


class GroupedQueryAttention(nn.Module):
    """Self-attention whose heads share keys and values in groups (arXiv 2305.13245), on tokens.

    Args:
        embed_dims: Channels, a multiple of ``num_heads``.
        num_heads: Number of heads, a multiple of ``num_groups``.
        num_groups: Number of keys and values; head ``i`` uses those of group
            ``i // (num_heads / num_groups)``.

    Raises:
        ValueError: One is not a multiple of the other.
    """

    def __init__(self, embed_dims: int, *, num_heads: int = 8, num_groups: int = 4) -> None:
        super().__init__()
        numbers = dict(embed_dims=embed_dims, num_heads=num_heads, num_groups=num_groups)
        for name, number in numbers.items():
            check_count(name, number)
        for name, divisor in (('embed_dims', 'num_heads'), ('num_heads', 'num_groups')):
            if numbers[name] % numbers[divisor]:
                raise ValueError(f'{name}={numbers[name]} is not a multiple of '
                                 f'{divisor}={numbers[divisor]}')
        self.num_heads, self.num_groups = num_heads, num_groups
        self.q = nn.Linear(embed_dims, embed_dims, bias=False)
        self.kv = nn.Linear(embed_dims, 2 * embed_dims // num_heads * num_groups, bias=False)
        self.proj = nn.Linear(embed_dims, embed_dims)
        for layer in (self.q, self.kv, self.proj):
            nn.init.trunc_normal_(layer.weight, std=0.02)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Attend between tokens ``(B, N, C)``; the shape stays."""
        q = self.q(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        # (2, B, groups, N, head_dims), then (2, B, heads, N, head_dims)
        kv = self.kv(x).unflatten(2, (2, self.num_groups, -1)).permute(2, 0, 3, 1, 4)
        k, v = kv.repeat_interleave(self.num_heads // self.num_groups, 2)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def _project(x: Tensor, linear: nn.Linear) -> Tensor:
    """Apply a linear layer over the channels of a map."""
    if x.device.type == 'cpu' and not exporting() and is_plain(linear, nn.Linear):
        # oneDNN has the convolution, MKL the linear layer: see ops/pointwise.py.
        return block_diagonal_linear(x, linear.weight, linear.bias)
    return linear(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])


TOKEN_MIXERS: Dict[str, Callable[..., nn.Module]] = dict(pool=Pooling, attention=SelfAttention)
