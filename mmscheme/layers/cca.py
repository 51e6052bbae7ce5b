"""Channel covariance attention: attention between channels without parameters."""
import math
from typing import Optional, Union

import torch
from torch import Tensor, nn

from mmscheme.ops import IMPLEMENTATIONS, channel_covariance, is_fused_cca
from mmscheme.utils.check_args import check_choice, check_count, check_number

__all__ = ['ChannelCovarianceAttention', 'channel_covariance_attention']

_HALF = (torch.float16, torch.bfloat16)


def channel_covariance_attention(x: Tensor, tau: float, mean: bool = False,
                                 num_extra_tokens: int = 0, implementation: str = 'auto',
                                 padding: Optional[Tensor] = None) -> Tensor:
    """Compute ``softmax(tau * X X^T) X`` with the channels as the rows of ``X``.

    The Gram matrix and its softmax are computed in float32 at least, also under
    autocast: its entries are sums over all positions, beyond float16 for the
    feature maps of a detector.

    Args:
        x: ``(B, C, N)``: C channels at N positions.
        tau: Factor of the Gram matrix before the softmax over each row.
        mean: Divide the Gram matrix by N. For centred channels it then is the covariance,
            and its values do not depend on the resolution.
        num_extra_tokens: Number of leading tokens that are not positions, such as class tokens:
            they are left out of the Gram matrix, but mixed like the others.
        implementation: ``'plain'``, which can be differentiated twice, or ``'auto'``, one
            operator that keeps its input and the C x C attention for the backward pass.
        padding: ``(B, N - num_extra_tokens)``, True for positions outside of the image, which
            are left out of the Gram matrix.

    Returns:
        ``(B, C, N)``.
    """
    if padding is None and is_fused_cca(x, implementation, num_extra_tokens):
        if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
            x = x.to(torch.get_autocast_dtype(x.device.type))
        return channel_covariance(x.transpose(1, 2), tau / x.shape[2] if mean else tau,
                                  implementation).transpose(1, 2)
    with torch.autocast('cpu' if x.is_meta else x.device.type, enabled=False):  # meta has none
        rows = x[..., num_extra_tokens:]
        rows = rows.float() if x.dtype in _HALF else rows
        positions: Union[int, Tensor] = max(1, rows.shape[2])
        if padding is not None:
            rows = rows.masked_fill(padding[:, None], 0)
            positions = (~padding).sum(1).clamp_min(1)[:, None, None]
        gram = torch.matmul(rows, rows.transpose(1, 2))
        attention = torch.softmax(gram * (tau / positions if mean else tau), dim=-1)
    return torch.matmul(attention.to(x.dtype), x)


class ChannelCovarianceAttention(nn.Module):
    """Channel covariance attention (CCA) of SCHEME (arXiv 2312.00412).

    Args:
        embed_dims: Channels ``C``.
        expansion: Expansion ``E`` of the FFN beside it, which enters the published tau.
        scaling: ``'gram'``: the Gram matrix, with the published constant
            ``tau = (E * C) ** -0.5``; it grows with the number of positions.
            ``'covariance'``: the Gram matrix divided by the number of positions,
            with ``tau = C ** 0.5``; it does not depend on the resolution.
        tau: Factor to use instead of that of the scaling.
        num_extra_tokens: Number of leading tokens that are not positions; see
            :func:`channel_covariance_attention`.
        implementation: See :func:`channel_covariance_attention`.

    Attributes:
        padding: Of the next tokens, see :func:`channel_covariance_attention`; None: there is none.

    Raises:
        TypeError, ValueError: An argument is not as above; the message names it.
    """

    def __init__(self, embed_dims: int, expansion: float = 8, *, scaling: str = 'gram',
                 tau: Union[float, None] = None, num_extra_tokens: int = 0,
                 implementation: str = 'auto') -> None:
        super().__init__()
        check_count('embed_dims', embed_dims)
        check_number('expansion', expansion, 'a positive number', lambda n: 0 < n < math.inf)
        check_count('num_extra_tokens', num_extra_tokens, 0)
        check_choice('implementation', implementation, IMPLEMENTATIONS)
        default = {'gram': 1 / math.sqrt(expansion * embed_dims),
                   'covariance': math.sqrt(embed_dims)}
        check_choice('scaling', scaling, default)
        self.scaling = scaling
        self.implementation = implementation
        self.tau = default[scaling] if tau is None else tau
        check_number('tau', self.tau, 'a finite number or None',
                     lambda n: abs(n) <= torch.finfo(torch.float32).max)
        self.num_extra_tokens = num_extra_tokens
        self.padding: Optional[Tensor] = None

    def forward(self, x: Tensor) -> Tensor:
        """Attend between channels, over all positions.

        Args:
            x: A map ``(B, C, H, W)`` or tokens ``(B, N, C)``; every token counts but the
                first ``num_extra_tokens``.

        Returns:
            The shape of ``x``.
        """
        mean = self.scaling == 'covariance'
        if x.dim() == 4:
            return channel_covariance_attention(
                x.flatten(2), self.tau, mean, implementation=self.implementation
            ).unflatten(2, x.shape[2:])
        if x.dim() != 3:
            raise ValueError('expected a map (B, C, H, W) or tokens (B, N, C), found an input '
                             f'of shape {tuple(x.shape)}')
        return channel_covariance_attention(x.transpose(1, 2), self.tau, mean,
                                            self.num_extra_tokens, self.implementation,
                                            self.padding).transpose(1, 2)

    def factor(self, positions: int) -> float:
        """Return the number that multiplies the Gram matrix."""
        return self.tau / positions if self.scaling == 'covariance' else self.tau

    def extra_repr(self) -> str:
        return f'scaling={self.scaling!r}, tau={self.tau:.4g}'
