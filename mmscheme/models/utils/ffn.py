"""mmcv's ``FFN`` with block-diagonal layers, for ``ffn_cfgs`` built by the registry.

mmcv's ``BaseTransformerLayer`` builds them so. The layers of DETR-like models in mmdet call mmcv's
``FFN`` with ``ffn_cfg``; a ``type`` in it is an unexpected argument there.
"""
from typing import Any, Callable, Optional, Sequence, Union

from mmcv.cnn import build_activation_layer
from mmcv.cnn.bricks.drop import build_dropout
from mmcv.cnn.bricks.scale import LayerScale
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmscheme.layers import BlockDiagonalMLP, SCHEMEMixer, ShuffledGELU
from mmscheme.models.utils.mixer_options import takes_options_of
from mmscheme.registry import MODELS
from mmscheme.utils.check_args import check_builds, check_count, check_flags, check_number

__all__ = ['SCHEMEFFN', 'BlockDiagonalFFN']

# act_cfg=dict(type='mmscheme.ShuffledGELU', groups=4)
MODELS.register_module(module=ShuffledGELU)


class _ResidualFFN(BaseModule):
    """Layer scale, drop path and identity around a channel mixer, as mmcv's FFN has them."""

    def __init__(self, layer: Callable[..., nn.Module], embed_dims: int, feedforward_channels: int,
                 num_fcs: int, act_cfg: dict, ffn_drop: float, dropout_layer: Optional[dict],
                 add_identity: bool, init_cfg: Optional[dict], layer_scale_init_value: float,
                 groups: Union[int, Sequence[int]], **options: Any) -> None:
        super().__init__(init_cfg)
        check_number('num_fcs', num_fcs, '2', lambda n: n == 2)
        check_number('ffn_drop', ffn_drop, 'a probability', lambda n: 0 <= n <= 1)
        check_count('feedforward_channels', feedforward_channels)
        check_number('layer_scale_init_value', layer_scale_init_value, 'a finite number',
                     lambda n: abs(n) < 1e38)
        check_builds('act_cfg', act_cfg, lambda: build_activation_layer(act_cfg))
        if dropout_layer is not None and dropout_layer != {}:
            check_builds('dropout_layer', dropout_layer, lambda: build_dropout(dropout_layer))
        check_flags(add_identity=add_identity)
        self.embed_dims = embed_dims
        self.feedforward_channels = feedforward_channels
        self.num_fcs = num_fcs
        self.add_identity = add_identity
        self.mixer = layer(embed_dims, feedforward_channels, groups, drop=ffn_drop,
                           act_layer=lambda: build_activation_layer(act_cfg), **options)
        self.gamma2 = (LayerScale(embed_dims, scale=layer_scale_init_value)
                       if layer_scale_init_value > 0 else nn.Identity())
        self.dropout_layer = build_dropout(dropout_layer) if dropout_layer else nn.Identity()

    def forward(self, x: Tensor, identity: Optional[Tensor] = None) -> Tensor:
        """Apply the FFN and add the identity.

        Args:
            x: Tokens ``(B, N, C)`` or, without layer scale, a map ``(B, C, H, W)``.
            identity: Added instead of ``x``; the shape of ``x``.

        Returns:
            The shape of ``x``.
        """
        out = self.dropout_layer(self.gamma2(self.mixer(x)))
        if not self.add_identity:
            return out
        return (x if identity is None else identity) + out


@MODELS.register_module()
class BlockDiagonalFFN(_ResidualFFN):
    """mmcv's ``FFN`` with two block-diagonal layers.

    Args:
        embed_dims, feedforward_channels, num_fcs, act_cfg, ffn_drop, dropout_layer,
            add_identity, init_cfg, layer_scale_init_value: As in
            :class:`mmcv.cnn.bricks.transformer.FFN`; ``num_fcs`` must be 2.
        groups: Blocks of the first and of the second layer.
        mlp: Options of the layers: :class:`mmscheme.layers.BlockDiagonalMLP` documents them.

    Raises:
        TypeError, ValueError: An argument that cannot be built, named in the message.
    """

    @takes_options_of(BlockDiagonalMLP)
    def __init__(self, embed_dims: int = 256, feedforward_channels: int = 1024, num_fcs: int = 2,
                 act_cfg: dict = dict(type='ReLU', inplace=True), ffn_drop: float = 0.,
                 dropout_layer: Optional[dict] = None, add_identity: bool = True,
                 init_cfg: Optional[dict] = None, layer_scale_init_value: float = 0.,
                 groups: Union[int, Sequence[int]] = (4, 4), **mlp: Any) -> None:
        super().__init__(BlockDiagonalMLP, embed_dims, feedforward_channels, num_fcs, act_cfg,
                         ffn_drop, dropout_layer, add_identity, init_cfg, layer_scale_init_value,
                         groups, **mlp)


@MODELS.register_module()
class SCHEMEFFN(_ResidualFFN):
    """mmcv's ``FFN`` with the SCHEME mixer: block-diagonal layers, CCA and alpha.

    Args:
        embed_dims, feedforward_channels, num_fcs, act_cfg, ffn_drop, dropout_layer,
            add_identity, init_cfg, layer_scale_init_value: As in
            :class:`mmcv.cnn.bricks.transformer.FFN`; ``num_fcs`` must be 2.
        groups: Blocks of the first and of the second layer.
        batch_first: Tokens are ``(B, N, C)``; False for ``(N, B, C)``, which mmcv's
            ``BaseTransformerLayer`` has unless it is told otherwise. CCA must know
            which axis holds the positions of one sample.
        mixer: Options of the mixer: :class:`mmscheme.layers.SCHEMEMixer` documents them. CCA
            covers all tokens it is given.

    Raises:
        TypeError, ValueError: An argument that cannot be built, named in the message.
    """

    @takes_options_of(SCHEMEMixer)
    def __init__(self, embed_dims: int = 256, feedforward_channels: int = 1024, num_fcs: int = 2,
                 act_cfg: dict = dict(type='ReLU', inplace=True), ffn_drop: float = 0.,
                 dropout_layer: Optional[dict] = None, add_identity: bool = True,
                 init_cfg: Optional[dict] = None, layer_scale_init_value: float = 0.,
                 groups: Union[int, Sequence[int]] = (4, 4), *, batch_first: bool = True,
                 **mixer: Any) -> None:
        super().__init__(SCHEMEMixer, embed_dims, feedforward_channels, num_fcs, act_cfg,
                         ffn_drop, dropout_layer, add_identity, init_cfg, layer_scale_init_value,
                         groups, **mixer)
        check_flags(batch_first=batch_first)
        self.batch_first = batch_first

    def forward(self, x: Tensor, identity: Optional[Tensor] = None) -> Tensor:
        """See :meth:`BlockDiagonalFFN.forward`; the layout is that of ``batch_first``."""
        if self.batch_first or x.dim() != 3:
            return super().forward(x, identity)
        identity = None if identity is None else identity.transpose(0, 1)
        return super().forward(x.transpose(0, 1), identity).transpose(0, 1)
