"""The SCHEME channel mixer: block-diagonal FFN and CCA, mixed by a learned weight."""
import math
from typing import Callable, Sequence, Union

import torch
from torch import Tensor, nn

from mmscheme.ops import is_fused_cca, scheme_mixer
from mmscheme.utils.check_args import check_flags, check_number

from .block_diagonal import BlockDiagonalMLP
from .cca import ChannelCovarianceAttention
from .fusable import is_plain

__all__ = ['SCHEMEMixer']


class SCHEMEMixer(nn.Module):
    """SCHEME channel mixer: ``alpha * FFN(x) + (1 - alpha) * CCA(x)`` (arXiv 2312.00412).

    ``1 - alpha`` is the CCA weight, ``cca_factor * sigmoid(-alpha_logit)``. ``alpha_logit``
    is one learned number per mixer; it replaces the softmax over two scalars in the authors'
    code, which has one degree of freedom too. ``cca_factor`` is a buffer, 1 until a schedule
    lowers it; at 0, CCA has no part in the output.

    In evaluation mode, the output is ``alpha * FFN(x)``: CCA is dropped and costs nothing,
    and the FFN keeps the weight it was trained with. The smaller ``1 - alpha``, the less
    this changes; at 0, it changes nothing.

    Args:
        embed_dims: Channels ``C``.
        hidden_dims: Hidden channels of the FFN; ``8 * C`` by default.
        groups: Groups of the two layers of the FFN.
        cca: Build CCA and alpha; False builds the block-diagonal FFN alone.
        keep_cca: Keep CCA in evaluation mode.
        cca_scaling, cca_tau: ``scaling`` and ``tau`` of
            :class:`ChannelCovarianceAttention`.
        alpha_init: Initial alpha, between 0 and 1.
        init_std, match_variance, implementation, act_layer, drop: See :class:`BlockDiagonalMLP`.

    Raises:
        TypeError, ValueError: An argument is not as above; the message names it.
    """

    def __init__(self, embed_dims: int, hidden_dims: Union[int, None] = None,
                 groups: Union[int, Sequence[int]] = (4, 4), *, cca: bool = True,
                 keep_cca: bool = False, cca_scaling: str = 'gram',
                 cca_tau: Union[float, None] = None, alpha_init: float = 0.5,
                 init_std: Union[float, None] = None, match_variance: bool = True,
                 implementation: str = 'auto', act_layer: Callable[[], nn.Module] = nn.GELU,
                 drop: float = 0.) -> None:
        super().__init__()
        check_flags(cca=cca, keep_cca=keep_cca)
        check_number('alpha_init', alpha_init, 'a number between 0 and 1', lambda n: 0 < n < 1)
        self.ffn = BlockDiagonalMLP(embed_dims, hidden_dims, groups, act_layer=act_layer,
                                    drop=drop, init_std=init_std, match_variance=match_variance,
                                    implementation=implementation)
        self.keep_cca = keep_cca
        self.cca_retired = False
        self.cca: Union[ChannelCovarianceAttention, None] = None
        if cca:
            expansion = self.ffn.fc1.out_features / embed_dims
            try:
                self.cca = ChannelCovarianceAttention(embed_dims, expansion, scaling=cca_scaling,
                                                      tau=cca_tau, implementation=implementation)
            except (TypeError, ValueError) as e:
                raise type(e)(f'cca_{e}') from None  # as the argument is called here
            logit = math.log(alpha_init / (1 - alpha_init))
            self.alpha_logit = nn.Parameter(torch.full((1, ), logit))
            # In the checkpoint, so that a model saved in mid-schedule evaluates as it trained.
            self.register_buffer('cca_factor', torch.ones(1))
            self.register_load_state_dict_post_hook(_unretire)

    @property
    def alpha(self) -> Tensor:
        """Share of the FFN in the output, a scalar in [0, 1]; 1 without CCA."""
        if self.cca is None:
            return self.ffn.fc1.weight.new_ones(())
        return 1 - self.cca_factor[0] * torch.sigmoid(-self.alpha_logit[0])

    def lower_cca_factor(self, limit: float) -> None:
        """Lower the factor of ``1 - alpha`` to ``limit`` in [0, 1]; it never rises.

        Raises:
            ValueError: ``limit`` is outside, or there is no CCA.
        """
        if self.cca is None:
            raise ValueError('a mixer without CCA has no factor')
        check_number('limit', limit, 'a number in [0, 1]', lambda n: 0 <= n <= 1)
        # In place on the device: comparing here would wait for the GPU.
        self.cca_factor.clamp_(max=limit)

    def retire_cca(self) -> None:
        """Remove CCA for good: its factor becomes 0 and it is no longer computed.

        Raises:
            ValueError: There is no CCA.
        """
        self.lower_cca_factor(0)
        # A Python flag, because reading the factor from a GPU would synchronise every step.
        self.cca_retired = True

    def _is_one_operator(self, cca: ChannelCovarianceAttention, x: Tensor) -> bool:
        """Return True if FFN and CCA are both C++ and nothing asks for their outputs."""
        return (x.device.type == 'cpu' and x.dim() in (3, 4) and cca.padding is None
                and cca.implementation in ('auto', 'native')
                and is_fused_cca(x, cca.implementation, cca.num_extra_tokens)
                and is_plain(cca, ChannelCovarianceAttention)
                and is_plain(self.ffn, BlockDiagonalMLP) and self.ffn.choose(x) == 'native')

    def forward(self, x: Tensor) -> Tensor:
        """Mix channels: ``alpha * FFN(x) + (1 - alpha) * CCA(x)``, without CCA once it is dropped.

        Args:
            x: The normalised map ``(B, C, H, W)`` or tokens ``(B, N, C)``.

        Returns:
            The shape of ``x``.
        """
        if self.cca is None:
            return self.ffn(x)
        if self.cca_retired and not torch.is_grad_enabled():
            return self.ffn(x)  # alpha is 1
        if self.cca_retired or not (self.training or self.keep_cca):
            return self.ffn(x, self.alpha)
        if self._is_one_operator(self.cca, x):
            self.ffn.fc1.check(x)
            return scheme_mixer(x, **self.ffn.arguments(), alpha=self.alpha,
                                tau=self.cca.factor(x.shape[2:].numel() if x.dim() == 4
                                                    else x.shape[1]))
        return _mix(self.ffn(x), self.cca(x), self.alpha)


def _mix(y: Tensor, covariance: Tensor, alpha: Tensor) -> Tensor:
    """Return ``alpha * y + (1 - alpha) * covariance`` in one pass."""
    if y.dtype == covariance.dtype == alpha.dtype:
        return torch.lerp(covariance, y, alpha)
    # Under autocast. The smaller weight is cast, which rounds it by its own size.
    dtype = torch.promote_types(y.dtype, covariance.dtype)
    return torch.lerp(y.to(dtype), covariance.to(dtype), (1 - alpha).to(dtype))


def _unretire(mixer: SCHEMEMixer, keys: object) -> None:
    """Compute CCA again unless the loaded factor is 0, because weights bring their own."""
    factor = mixer.cca_factor
    mixer.cca_retired = factor.device.type != 'meta' and not bool(factor)
