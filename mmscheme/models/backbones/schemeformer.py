"""SCHEMEformer: MetaFormer-PPAA with SCHEME channel mixers."""
from numbers import Integral
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmscheme.layers import TOKEN_MIXERS, SCHEMEMixer
from mmscheme.layers.scheme_mixer import read_guide
from mmscheme.models.utils.mixer_options import MERGED, interleave_evens, takes_options_of
from mmscheme.ops import exporting, in_transform
from mmscheme.registry import MODELS
from mmscheme.utils.check_args import (
    check_builds,
    check_choice,
    check_count,
    check_flags,
    check_number,
    read_indices,
)

__all__ = ['ARCHS', 'SCHEMEformer']

_PPAA = ('pool', 'pool', 'attention', 'attention')
_SMALL, _MEDIUM = (64, 128, 320, 512), (96, 192, 384, 768)

#: The family; ``arch=dict(...)`` takes the same keys.
ARCHS: Dict[str, Dict[str, Any]] = dict(
    s12=dict(depths=(2, 2, 6, 2), embed_dims=_SMALL, token_mixers=_PPAA, layer_scale_init=1e-5),
    s24=dict(depths=(4, 4, 12, 4), embed_dims=_SMALL, token_mixers=_PPAA, layer_scale_init=1e-5),
    s36=dict(depths=(6, 6, 18, 6), embed_dims=_SMALL, token_mixers=_PPAA, layer_scale_init=1e-6),
    m36=dict(depths=(6, 6, 18, 6), embed_dims=_MEDIUM, token_mixers=_PPAA, layer_scale_init=1e-6),
)

# The stage whose input gets the position embedding: stride 16, where attention begins in PPAA.
POS_EMBED_STAGE = 2


def _read_arch(arch: Union[str, dict]) -> Dict[str, Any]:
    """Check the description of an architecture and fill in its defaults."""
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise ValueError(f'arch: expected one of {sorted(ARCHS)} or a dict, found {arch!r}')
        return ARCHS[arch]
    if not isinstance(arch, dict):
        raise TypeError(f'arch: expected a name or a dict, found {type(arch).__name__}')
    required, optional = {'depths', 'embed_dims'}, {'token_mixers', 'layer_scale_init'}
    if not required <= set(arch) <= required | optional:
        raise ValueError(f'arch: expected the keys {sorted(required)} and optionally '
                         f'{sorted(optional)}, found {sorted(arch)}{MERGED}')
    full = dict(dict(token_mixers=_PPAA, layer_scale_init=1e-5), **arch)
    for key in ('depths', 'embed_dims', 'token_mixers'):
        if not isinstance(full[key], (list, tuple)) or len(full[key]) != 4:
            raise ValueError(f'arch.{key}: expected 4 stages, found {full[key]!r}')
    check_number('arch.layer_scale_init', full['layer_scale_init'], 'a finite number',
                 lambda n: abs(n) < 1e38)
    for key, least in (('depths', 0), ('embed_dims', 1)):
        for number in full[key]:
            check_count(f'arch.{key}', number, least)
    for name in full['token_mixers']:
        check_choice('arch.token_mixers', name, TOKEN_MIXERS)
    return full


def _resize_embed(embed: Tensor, size: torch.Size) -> Tensor:
    """Resize a position embedding ``(1, C, h, w)`` to the map, in float32."""
    if embed.shape[2:] == size:
        return embed
    return F.interpolate(embed.float(), size, mode='bicubic', align_corners=False)


class MetaFormerBlock(nn.Module):
    """``x + ls1 * token_mixer(norm1(x))``, then ``x + ls2 * channel_mixer(norm2(x))``.

    Args:
        embed_dims: Channels.
        token_mixer, channel_mixer: Modules that map ``(B, C, H, W)`` to its shape.
        drop_path_rate: Probability with which a sample skips a residual branch.
        layer_scale_init: Initial value of the factors of each branch, one per channel.
        norm_cfg: Norm layer.
        deploy: Builds the form for inference: no layer scale, and a group norm before
            the channel mixer has no weight and bias.
    """

    def __init__(self, embed_dims: int, token_mixer: nn.Module, channel_mixer: nn.Module, *,
                 drop_path_rate: float, layer_scale_init: float, norm_cfg: dict,
                 deploy: bool = False) -> None:
        super().__init__()
        self.norm1 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.token_mixer = token_mixer
        bare = dict(affine=False) if deploy and norm_cfg['type'] == 'GN' else {}
        self.norm2 = build_norm_layer({**norm_cfg, **bare}, embed_dims)[1]
        self.channel_mixer = channel_mixer
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate > 0 else nn.Identity()
        if deploy:
            self.layer_scale1 = self.layer_scale2 = None
            return
        self.layer_scale1 = nn.Parameter(torch.full((embed_dims, ), float(layer_scale_init)))
        self.layer_scale2 = nn.Parameter(torch.full((embed_dims, ), float(layer_scale_init)))

    def forward(self, x: Tensor) -> Tensor:
        x = self._add(x, self.token_mixer(self.norm1(x)), self.layer_scale1)
        return self._add(x, self.channel_mixer(self.norm2(x)), self.layer_scale2)

    def _add(self, x: Tensor, branch: Tensor, scale: Optional[Tensor]) -> Tensor:
        branch = self.drop_path(branch)
        if scale is None:
            return x + branch
        scale = scale[:, None, None]
        if x.dtype == branch.dtype == scale.dtype:
            return torch.addcmul(x, branch, scale)  # in one pass
        return x + scale * branch


def _check_arguments(expansion: float, in_channels: int, drop_rate: float, drop_path_rate: float,
                     frozen_stages: int, norm_cfg: dict, act_cfg: dict, channels: int) -> None:
    """Raise where an argument of the backbone cannot be built."""
    check_number('frozen_stages', frozen_stages, 'a whole number from -1 to 4',
                 lambda n: -1 <= n <= 4, Integral)
    check_count('in_channels', in_channels)
    check_number('expansion', expansion, 'a number between 0 and 10000', lambda n: 0 < n < 10000)
    check_number('drop_rate', drop_rate, 'a probability', lambda n: 0 <= n <= 1)
    check_number('drop_path_rate', drop_path_rate, 'a probability below 1', lambda n: 0 <= n < 1)
    check_builds('norm_cfg', norm_cfg, lambda: build_norm_layer(norm_cfg, channels))
    check_builds('act_cfg', act_cfg, lambda: build_activation_layer(act_cfg))


def _make_pos_embed(pos_embed: Union[bool, Sequence[int], None],
                    channels: int) -> Optional[nn.Parameter]:
    """Return the position embedding at its own size, zeros; None where there is none."""
    if pos_embed is None or pos_embed is False:
        return None
    size = (14, 14) if pos_embed is True else pos_embed
    if not isinstance(size, (list, tuple)) or len(size) != 2:
        raise TypeError(f'pos_embed: expected True, False or (height, width), found {pos_embed!r}')
    for side in size:
        check_count('pos_embed', side)
    return nn.Parameter(torch.zeros(1, channels, *size))


def _make_stage(name: str, channels: int, rates: Iterator[float], settings: Dict[str, Any],
                stage: int, deploy: bool, norm_cfg: dict, mixer: Dict[str, Any]) -> nn.ModuleList:
    """Build the blocks of a stage; the next rate of drop path is that of the next block."""
    token_mixer, blocks = TOKEN_MIXERS[settings['token_mixers'][stage]], nn.ModuleList()
    for i in range(settings['depths'][stage]):
        try:
            channel_mixer = SCHEMEMixer(channels, **interleave_evens(mixer, i))
        except ValueError as e:
            raise ValueError(f'{name}: {e}') from None
        blocks.append(MetaFormerBlock(
            channels, token_mixer(channels), channel_mixer, drop_path_rate=next(rates),
            layer_scale_init=settings['layer_scale_init'], norm_cfg=norm_cfg, deploy=deploy))
    return blocks


@MODELS.register_module()
class SCHEMEformer(BaseModule):
    """SCHEMEformer (arXiv 2312.00412), a backbone with outputs at strides 4, 8, 16 and 32.

    The default is the paper's 44-e8. ``groups=(1, 1), expansion=4, cca=False`` builds
    the dense MetaFormer-PPAA with the same stages.

    Args:
        arch: ``'s12'``, ``'s24'``, ``'s36'``, ``'m36'`` or a dict with the keys
            ``depths`` and ``embed_dims`` (four numbers each) and, optionally,
            ``token_mixers`` (four times ``'pool'`` or ``'attention'``) and
            ``layer_scale_init``.
        groups: Groups of the first and of the second layer of each FFN, or one
            number for both.
        expansion: Hidden channels of the FFNs, as a multiple of the channels of the stage.
        in_channels: Channels of the input image.
        drop_rate: Dropout in the FFNs.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0.
        out_indices: Stages (0 to 3) to return, each after a norm of its own.
        frozen_stages: Number of stages to freeze, together with the stem; 0 freezes
            only the stem, -1 nothing.
        pos_embed: Add a learned position embedding before stage 2: True for 14x14
            positions (an image of 224x224), or ``(height, width)``. It is
            interpolated to other sizes.
        norm_cfg: Norm layers; GroupNorm with one group by default.
        act_cfg: Activation of the FFNs.
        with_cp: Save memory by recomputing each block in the backward pass.
        deploy: Build the form for inference that :mod:`mmscheme.deploy` makes of a
            trained model: without CCA, alpha, layer scale and drop path.
        init_cfg: Initialisation by mmengine, usually
            ``dict(type='Pretrained', checkpoint=..., prefix='backbone.')``.
        mixer: Options of the channel mixers, such as ``cca`` and ``keep_cca``; see
            :class:`mmscheme.layers.SCHEMEMixer`.

    Raises:
        TypeError, ValueError: An argument is not as above; the message names it.
    """

    @takes_options_of(SCHEMEMixer)
    def __init__(self, arch: Union[str, dict] = 's12', groups: Union[int, Sequence[int]] = (4, 4),
                 *, expansion: float = 8, in_channels: int = 3, drop_rate: float = 0.,
                 drop_path_rate: float = 0., out_indices: Sequence[int] = (0, 1, 2, 3),
                 frozen_stages: int = -1, pos_embed: Union[bool, Sequence[int]] = False,
                 norm_cfg: dict = dict(type='GN', num_groups=1),
                 act_cfg: dict = dict(type='GELU'), with_cp: bool = False, deploy: bool = False,
                 init_cfg: Optional[Union[dict, List[dict]]] = None, **mixer: Any) -> None:
        super().__init__(init_cfg)
        settings = _read_arch(arch)
        dims, depths = settings['embed_dims'], settings['depths']
        _check_arguments(expansion, in_channels, drop_rate, drop_path_rate, frozen_stages,
                         norm_cfg, act_cfg, dims[0])
        read_guide(**mixer)
        check_flags(deploy=deploy, with_cp=with_cp)
        self.arch, self.frozen_stages = arch, frozen_stages
        self.with_cp, self.deploy = with_cp, deploy
        self.out_indices = tuple(sorted(
            read_indices('out_indices', out_indices, 4, 'stages from 0 to 3')))
        if deploy:
            mixer['guide'], drop_path_rate = None, 0.

        # Entry i takes the map to stage i: the stem, then one step down before each stage.
        # Stages after the last output would never be used.
        num_stages = self.out_indices[-1] + 1
        self.downsamples = nn.ModuleList(
            nn.Conv2d(in_channels, dims[0], 7, stride=4, padding=2) if i == 0 else
            nn.Conv2d(dims[i - 1], dims[i], 3, stride=2, padding=1) for i in range(num_stages))
        self.pos_embed = (_make_pos_embed(pos_embed, dims[POS_EMBED_STAGE])
                          if num_stages > POS_EMBED_STAGE else None)
        mixer.update(drop=drop_rate, act_layer=lambda: build_activation_layer(act_cfg))
        rates = iter(torch.linspace(0, drop_path_rate, sum(depths), device='cpu').tolist())
        self.stages = nn.ModuleList(
            _make_stage(f'stage {i} of arch {arch!r}', dims[i], rates, settings, i, deploy,
                        norm_cfg, dict(mixer, hidden_dims=round(expansion * dims[i]),
                                       groups=groups))
            for i in range(num_stages))
        for i in self.out_indices:
            self.add_module(f'norm{i}', build_norm_layer(norm_cfg, dims[i])[1])
        self._freeze_stages()

    def _freeze_stages(self) -> None:
        """Stop gradients and dropout up to ``frozen_stages``."""
        if self.frozen_stages < 0:
            return
        frozen: List[nn.Module] = [self.downsamples[0]]
        for i in range(min(self.frozen_stages, len(self.stages))):
            frozen += [self.downsamples[i], self.stages[i]]
            if i in self.out_indices:
                frozen.append(getattr(self, f'norm{i}'))
            if i == POS_EMBED_STAGE and self.pos_embed is not None:
                self.pos_embed.requires_grad_(False)
        for module in frozen:
            module.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> 'SCHEMEformer':
        """Set the mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        self._freeze_stages()
        return self

    def get_layer_depth(self, param_name: str, prefix: str = '') -> Tuple[int, int]:
        """Return the depth of a parameter, for layer-wise learning-rate decay as in mmpretrain.

        Args:
            param_name: Name of the parameter in the model.
            prefix: Prefix of the backbone in that name.

        Returns:
            The depth and the number of depths: 0 for the stem, then one for each block,
            together with the downsampling before it; the last for everything else, that
            is the norms of the outputs and what does not belong to the backbone.
        """
        blocks = [len(stage) for stage in self.stages]
        last = sum(blocks) + 1
        depth = last
        if param_name.startswith(prefix):
            kind, *rest = param_name[len(prefix):].split('.')
            if kind == 'stages':
                depth = sum(blocks[:int(rest[0])]) + int(rest[1]) + 1
            elif kind == 'downsamples':
                depth = sum(blocks[:int(rest[0])]) + 1 if rest[0] != '0' else 0
            elif kind == 'pos_embed':
                depth = sum(blocks[:POS_EMBED_STAGE]) + 1
        return depth, last + 1

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Compute the feature maps, internally in channels-last order.

        Args:
            x: Images ``(B, 3, H, W)`` of any size that the stem accepts.

        Returns:
            A map ``(B, C_i, H_i, W_i)`` for each of ``out_indices``, in the memory format
            of ``x``.
        """
        stem = self.downsamples[0]
        if not exporting() and (x.dim() != 4 or x.shape[1] != stem.in_channels
                                or min(x.shape[2:]) < 3):
            raise ValueError(f'expected images (B, {stem.in_channels}, H, W) of at least 3 '
                             f'pixels a side, found shape {tuple(x.shape)}')
        outs = []
        as_they_come = exporting() or in_transform()
        if not as_they_come:
            channels_last = (x.is_contiguous(memory_format=torch.channels_last)
                             and not x.is_contiguous())
            memory_format = torch.channels_last if channels_last else torch.contiguous_format
            x = x.contiguous(memory_format=torch.channels_last)
        for i, (down, blocks) in enumerate(zip(self.downsamples, self.stages)):
            x = down(x)
            if i == POS_EMBED_STAGE and self.pos_embed is not None:
                x = x + _resize_embed(self.pos_embed, x.shape[2:]).to(x.dtype)
            for block in blocks:
                if self.with_cp and x.requires_grad:
                    x = checkpoint(block, x, use_reentrant=False)
                else:
                    x = block(x)
            if i in self.out_indices:
                out = getattr(self, f'norm{i}')(x)
                # Heads that say `view` are made for the format they were fed with.
                outs.append(out if as_they_come else out.contiguous(memory_format=memory_format))
        return tuple(outs)
