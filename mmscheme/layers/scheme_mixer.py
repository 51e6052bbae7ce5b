"""The SCHEME channel mixer: a block-diagonal FFN and what guides it in training."""
import math
from typing import Any, Callable, Dict, Optional, Sequence, Union

import torch
from torch import Tensor, nn

from mmscheme.ops import is_fused_cca, scheme_mixer
from mmscheme.utils.check_args import check_choice, check_flags, check_number

from .activations import shuffle_channels
from .block_diagonal import BlockDiagonalMLP
from .cca import ChannelCovarianceAttention
from .dense_guide import DenseGuide, dense_form
from .fusable import is_plain

__all__ = ['SCHEMEMixer', 'read_guide']


def read_guide(cca: Any = True, guide: Any = 'cca', **others: Any) -> Optional[str]:
    """Return the guide that options of a :class:`SCHEMEMixer` ask for; the rest do not count.

    Raises:
        TypeError, ValueError: One of the two is not as documented there.
    """
    check_flags(cca=cca)
    if guide is not None:
        check_choice('guide', guide, ('cca', 'dense'))
    return None if guide == 'cca' and not cca else guide


class SCHEMEMixer(nn.Module):
    """SCHEME channel mixer: ``alpha * FFN(x) + (1 - alpha) * CCA(x)`` (arXiv 2312.00412).

    ``1 - alpha`` is the CCA weight, ``cca_factor * sigmoid(-alpha_logit)``. ``alpha_logit``
    is one learned number per mixer; it replaces the softmax over two scalars in the authors'
    code, which has one degree of freedom too. ``cca_factor`` is a buffer, 1 until a schedule
    lowers it; at 0, CCA has no part in the output.

    In evaluation mode, the output is ``alpha * FFN(x)``: CCA is dropped and costs nothing,
    and the FFN keeps the weight it was trained with. The smaller ``1 - alpha``, the less
    this changes; at 0, it changes nothing.

    With ``guide='dense'``, dense weights in each layer of the FFN take the place of CCA; see
    :class:`~mmscheme.layers.dense_guide.DenseGuide`, whose ``a`` is ``cca_factor`` alone. The
    schedule must lower it to 0; evaluation computes ``FFN(x)``.

    Args:
        embed_dims: Channels ``C``.
        hidden_dims: Hidden channels of the FFN; ``8 * C`` by default.
        groups: Groups of the two layers of the FFN.
        cca: False stands for ``guide=None`` if the guide would be CCA.
        guide: ``'cca'``, ``'dense'``, or None for the block-diagonal FFN alone, without alpha.
        sample_guide: Compute the guide in a training step only with probability
            ``cca_factor``, drawn from torch's generator; other steps compute what evaluation
            does. With a factor that falls along a cosine, the guide costs half as much.
            ``torch.compile`` breaks its graph there.
        keep_cca: Keep the guide in evaluation mode.
        cca_scaling, cca_tau: ``scaling`` and ``tau`` of
            :class:`ChannelCovarianceAttention`.
        alpha_init: Initial alpha, between 0 and 1.
        interleave: Interleave the channels of the groups: with 4 groups, the first one has the
            channels 0, 4, 8 and so on. Backbones do so in every other block of a width, from
            the first on, so that channels change their companions. This costs two copies of
            the map, also at inference, because the residual stream keeps its order.
        init_std, match_variance, implementation, act_layer, drop: See :class:`BlockDiagonalMLP`.

    Raises:
        TypeError, ValueError: An argument is not as above; the message names it.
    """

    def __init__(self, embed_dims: int, hidden_dims: Union[int, None] = None,
                 groups: Union[int, Sequence[int]] = (4, 4), *, cca: bool = True,
                 guide: Optional[str] = 'cca', sample_guide: bool = False,
                 keep_cca: bool = False, cca_scaling: str = 'gram',
                 cca_tau: Union[float, None] = None, alpha_init: float = 0.5,
                 interleave: bool = False, init_std: Union[float, None] = None,
                 match_variance: bool = True, implementation: str = 'auto',
                 act_layer: Callable[[], nn.Module] = nn.GELU, drop: float = 0.) -> None:
        super().__init__()
        chosen = read_guide(cca, guide)
        check_flags(sample_guide=sample_guide, keep_cca=keep_cca, interleave=interleave)
        check_number('alpha_init', alpha_init, 'a number between 0 and 1', lambda n: 0 < n < 1)
        self.ffn = BlockDiagonalMLP(embed_dims, hidden_dims, groups, act_layer=act_layer,
                                    drop=drop, init_std=init_std, match_variance=match_variance,
                                    implementation=implementation)
        self.interleaved = max(self.ffn.fc1.groups, self.ffn.fc2.groups) if interleave else 1
        if interleave:  # in the checkpoint, whose weights mean other channels
            self.register_buffer('interleave', torch.tensor(self.interleaved))
        self.sample_guide = sample_guide
        self.keep_cca = keep_cca
        # The factor as a number, because reading it from a GPU would synchronise every step.
        self._factor = 1.
        #: True once it is 0: the guide is no longer computed.
        self.cca_retired = False
        self.guide: Union[ChannelCovarianceAttention, DenseGuide, None] = None
        if chosen is None:
            return
        self.register_parameter('alpha_logit', None)
        if chosen == 'dense':
            self.guide = DenseGuide(self.ffn)
            self.register_load_state_dict_pre_hook(_start_guide)
        else:
            expansion = self.ffn.fc1.out_features / embed_dims
            try:
                self.guide = ChannelCovarianceAttention(
                    embed_dims, expansion, scaling=cca_scaling, tau=cca_tau,
                    implementation=implementation)
            except (TypeError, ValueError) as e:
                raise type(e)(f'cca_{e}') from None  # as the argument is called here
            logit = math.log(alpha_init / (1 - alpha_init))
            self.alpha_logit = nn.Parameter(torch.full((1, ), logit))
        # In the checkpoint, so that a model saved in mid-schedule evaluates as it trained.
        self.register_buffer('cca_factor', torch.ones(1))
        self.register_load_state_dict_post_hook(_read_factor)

    @property
    def cca(self) -> Optional[ChannelCovarianceAttention]:
        """The CCA branch, if that is the guide."""
        return self.guide if isinstance(self.guide, ChannelCovarianceAttention) else None

    @property
    def alpha(self) -> Tensor:
        """Share of the FFN in the output, a scalar in [0, 1]; 1 without a guide."""
        if self.guide is None:
            return self.ffn.fc1.weight.new_ones(())
        share = 1. if self.alpha_logit is None else torch.sigmoid(-self.alpha_logit[0])
        return 1 - self.cca_factor[0] * share

    def lower_cca_factor(self, limit: float) -> None:
        """Lower the factor of ``1 - alpha`` to ``limit`` in [0, 1]; it never rises.

        Raises:
            ValueError: ``limit`` is outside, or there is no guide.
        """
        if self.guide is None:
            raise ValueError('a mixer without CCA or another guide has no factor')
        check_number('limit', limit, 'a number in [0, 1]', lambda n: 0 <= n <= 1)
        # In place on the device: comparing here would wait for the GPU.
        self.cca_factor.clamp_(max=limit)
        self._set_factor(min(self._factor, limit))

    def _set_factor(self, factor: float) -> None:
        self._factor, self.cca_retired = factor, factor == 0

    def start_guide(self) -> None:
        """Let a dense guide start from the FFN's weights, unless its factor has fallen already."""
        if isinstance(self.guide, DenseGuide) and self._factor == 1:
            self.guide.start(self.ffn)

    def retire_cca(self) -> None:
        """Remove the guide for good: its factor becomes 0 and it is no longer computed.

        Raises:
            ValueError: There is none.
        """
        self.lower_cca_factor(0)

    def _is_one_operator(self, cca: ChannelCovarianceAttention, x: Tensor) -> bool:
        """Return True if FFN and CCA are both C++ and nothing asks for their outputs."""
        return (x.device.type == 'cpu' and x.dim() in (3, 4) and cca.padding is None
                and self.ffn.fc1.weight.dtype == self.ffn.fc2.weight.dtype == x.dtype
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
        if self.interleaved == 1:
            return self._mix(x)
        self.ffn.fc1.check(x)
        return shuffle_channels(self._mix(self.reorder(x)), self.interleaved)

    def reorder(self, x: Tensor) -> Tensor:
        """Put the channels of a map, of tokens or of a vector into the order of the FFN's."""
        if self.interleaved == 1:
            return x
        return shuffle_channels(x, self.ffn.fc1.in_features // self.interleaved)

    def _mix(self, x: Tensor) -> Tensor:
        """Mix channels in the order of the FFN's."""
        if self.guide is None:
            return self.ffn(x)
        if self.cca_retired and not torch.is_grad_enabled():
            return self.ffn(x)  # alpha is 1
        if not self._is_guided():
            return self.ffn(x, self._gain())
        if isinstance(self.guide, DenseGuide):
            return self.guide(self.ffn, x, 1 - self.alpha)
        if self._is_one_operator(self.guide, x):
            self.ffn.fc1.check(x)
            return scheme_mixer(x, **self.ffn.arguments(), alpha=self.alpha,
                                tau=self.guide.factor(x.shape[2:].numel() if x.dim() == 4
                                                      else x.shape[1]))
        return _weigh(self.ffn(x), self.guide(x), self.alpha)

    def _is_guided(self) -> bool:
        """Return True if the guide is computed for the next input."""
        if self.cca_retired or not (self.training or self.keep_cca):
            return False
        return not (self.sample_guide and self.training) or self._is_drawn()

    @torch.compiler.disable
    def _is_drawn(self) -> bool:
        return float(torch.rand((), device='cpu')) < self._factor

    def _gain(self) -> Optional[Tensor]:
        """Return the factor of the FFN's output where the guide is not computed."""
        if not isinstance(self.guide, DenseGuide):
            return self.alpha
        return 1 + self.guide.nothing() if self.training and torch.is_grad_enabled() else None


def _weigh(y: Tensor, covariance: Tensor, alpha: Tensor) -> Tensor:
    """Return ``alpha * y + (1 - alpha) * covariance`` in one pass."""
    if y.dtype == covariance.dtype == alpha.dtype:
        return torch.lerp(covariance, y, alpha)
    # Under autocast. The smaller weight is cast, which rounds it by its own size.
    dtype = torch.promote_types(y.dtype, covariance.dtype)
    return torch.lerp(y.to(dtype), covariance.to(dtype), (1 - alpha).to(dtype))


def _read_factor(mixer: SCHEMEMixer, keys: object) -> None:
    """Compute the guide again unless the loaded factor is 0, because weights bring their own."""
    if mixer.guide is not None:
        factor = mixer.cca_factor
        mixer._set_factor(1. if factor.device.type == 'meta' else float(factor))


def _start_guide(mixer: SCHEMEMixer, state_dict: Dict[str, Tensor], prefix: str, *args: Any
                 ) -> None:
    """Let the guide start from loaded weights that have none."""
    for i, fc in enumerate((mixer.ffn.fc1, mixer.ffn.fc2), 1):
        key, blocks = f'{prefix}guide.weight{i}', f'{prefix}ffn.fc{i}.weight'
        if mixer.guide is not None and key not in state_dict and blocks in state_dict:
            state_dict[key] = dense_form(state_dict[blocks], fc.groups)
