"""Activations of FFNs."""
from typing import Optional

import torch
from torch import Tensor, nn

from mmscheme.ops import in_transform
from mmscheme.utils.check_args import check_count, check_number

__all__ = ['ShuffledGELU', 'StarReLU', 'apply_activation', 'fused_name', 'is_pointwise',
           'shuffle_channels']


class StarReLU(nn.Module):
    """Compute ``scale * relu(x) ** 2 + bias`` with learned scale and bias (MetaFormer baselines).

    Args:
        scale, bias: Initial values; with the defaults, a standard normal input gives an output
            of zero mean and unit variance.
    """

    def __init__(self, scale: float = 0.8944, bias: float = -0.4472) -> None:
        super().__init__()
        for name, value in (('scale', scale), ('bias', bias)):
            check_number(name, value, 'a finite number', lambda n: abs(n) < 1e38)
        self.scale = nn.Parameter(torch.full((1, ), float(scale)))
        self.bias = nn.Parameter(torch.full((1, ), float(bias)))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * torch.relu(x).square() + self.bias


def shuffle_channels(x: Tensor, groups: int) -> Tensor:
    """Deal the channels of each group out to all groups (ShuffleNet, arXiv 1707.01083).

    Args:
        x: A map ``(B, C, H, W)`` or tokens ``(..., C)``.
        groups: Divides ``C``; ``C / groups`` of them undo it.

    Returns:
        The shape of ``x``: channel ``i`` of group ``k`` is channel ``i * groups + k`` there.
    """
    dim = 1 if x.dim() == 4 else -1
    grouped = x.unflatten(dim, (groups, -1))
    return grouped.transpose(1, 2).flatten(1, 2) if dim == 1 else grouped.mT.flatten(-2)


class ShuffledGELU(nn.Module):
    """Apply GELU, then :func:`shuffle_channels`.

    Between two block-diagonal layers, the shuffle makes every output depend on every input, as
    an alternative to CCA in the authors' code.

    Args:
        groups: Groups of the layer before it.
    """

    def __init__(self, groups: int = 4) -> None:
        super().__init__()
        check_count('groups', groups)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Shuffle a map ``(B, C, H, W)`` or tokens ``(..., C)`` whose channels divide."""
        dim = 1 if x.dim() == 4 else -1
        if x.shape[dim] % self.groups:
            raise ValueError(f'{x.shape[dim]} channels do not divide into groups={self.groups}')
        return shuffle_channels(nn.functional.gelu(x), self.groups)

    def extra_repr(self) -> str:
        return f'groups={self.groups}'


def fused_name(act: nn.Module) -> Optional[str]:
    """Return the name of an activation in :data:`mmscheme.ops.ACTIVATIONS`; None if not there."""
    if type(act) is nn.GELU and act.approximate != 'none':
        return None
    # A subclass may compute something else.
    return {nn.GELU: 'gelu', nn.SiLU: 'silu', nn.ReLU: 'relu', StarReLU: 'star_relu'}.get(type(act))


def is_pointwise(act: nn.Module) -> bool:
    """Return True if an activation is known to treat each value by itself."""
    return type(act) in (nn.GELU, nn.SiLU, nn.ReLU, nn.ReLU6, nn.Hardswish, nn.LeakyReLU, nn.ELU,
                         nn.Mish, nn.Sigmoid, nn.Tanh, StarReLU)


def apply_activation(act: nn.Module, x: Tensor) -> Tensor:
    """Apply an activation to a map or tokens, in the memory order of a channels-last map.

    torch 2.12's GELU of a channels-last map is twenty times slower than that of the same
    memory seen as ``(B, H, W, C)``.
    """
    if (x.dim() == 4 and fused_name(act) and not in_transform() and not x.is_contiguous()
            and x.is_contiguous(memory_format=torch.channels_last)):
        return act(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return act(x)
