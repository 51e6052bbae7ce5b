"""The block-diagonal FFN as batched matrix products over the groups, of views without copies."""
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ['batched_mlp']


def _layer(rows: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
    blocks = weight.unflatten(0, (len(rows), -1)).transpose(1, 2)
    if bias is None:
        return torch.bmm(rows, blocks)
    return torch.baddbmm(bias.view(len(rows), 1, -1), rows, blocks)


def batched_mlp(x: Tensor, w1: Tensor, b1: Optional[Tensor], w2: Tensor, b2: Optional[Tensor],
                groups: int, act: str, scale: Optional[Tensor], shift: Optional[Tensor]) -> Tensor:
    """Return the FFN of tokens ``(B, N, C)``; see :func:`mmscheme.ops.block_diagonal_mlp`."""
    rows = x.flatten(0, 1).unflatten(1, (groups, -1)).transpose(0, 1)
    h = _layer(rows, w1, b1)
    if act == 'star_relu':
        h = scale * torch.relu(h).square() + shift
    else:
        h = {'gelu': F.gelu, 'silu': F.silu, 'relu': F.relu}[act](h)
    y = _layer(h, w2, b2).transpose(0, 1).reshape(x.shape)
    # In the memory order of the input, because a timing decides whether this form is taken.
    return y if y.stride() == x.stride() else torch.empty_like(x).copy_(y)
