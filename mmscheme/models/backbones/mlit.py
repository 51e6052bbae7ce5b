"""mLiT: a vision transformer of shared experts and grouped-query attention."""
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmscheme.layers import GroupedQueryAttention, SharedExpertFFN
from mmscheme.models.utils.mixer_options import MERGED, takes_options_of
from mmscheme.ops import exporting
from mmscheme.registry import MODELS
from mmscheme.utils.check_args import (
    check_choice,
    check_count,
    check_flags,
    check_number,
    read_indices,
)

__all__ = ['MAEMLiT', 'MLIT_ARCHS', 'MLiT']

_EXPERTS = (3, 4, 5)

#: The family; ``arch=dict(...)`` takes the same keys.
MLIT_ARCHS: Dict[str, Dict[str, Any]] = dict(
    s=dict(embed_dims=144, num_layers=15, hidden_dims=(144, 72), num_heads=8, num_groups=4),
    xs=dict(embed_dims=128, num_layers=12, hidden_dims=(96, 32), num_heads=8, num_groups=4),
    xxs=dict(embed_dims=108, num_layers=9, hidden_dims=(81, 27), num_heads=6, num_groups=3),
)


def _read_arch(arch: Union[str, dict]) -> Dict[str, Any]:
    """Check the description of an architecture and fill in its defaults."""
    if isinstance(arch, str):
        check_choice('arch', arch, MLIT_ARCHS)
        arch = MLIT_ARCHS[arch]
    if not isinstance(arch, dict):
        raise TypeError(f'arch: expected a name or a dict, found {type(arch).__name__}')
    keys = set(MLIT_ARCHS['s'])
    if not keys <= set(arch) <= keys | {'num_experts'}:
        raise ValueError(f'arch: expected the keys {sorted(keys)} and optionally num_experts, '
                         f'found {sorted(arch)}{MERGED}')
    full = dict(dict(num_experts=_EXPERTS), **arch)
    for key in ('embed_dims', 'num_layers'):
        check_count(f'arch.{key}', full[key])
    for key, length in (('hidden_dims', 2), ('num_experts', 3)):
        if not isinstance(full[key], (list, tuple)) or len(full[key]) != length:
            raise ValueError(f'arch.{key}: expected {length} numbers, found {full[key]!r}')
        for number in full[key]:
            check_count(f'arch.{key}', number)
    return full


def _layers_of(arch: Dict[str, Any]) -> Iterator[Tuple[int, int]]:
    """Yield hidden width and number of experts of each layer."""
    (first, last), depth = arch['hidden_dims'], arch['num_layers']
    for i in range(depth):
        yield round(first + (last - first) * i / max(1, depth - 1)), arch['num_experts'][
            3 * i // depth]


class MLiTLayer(nn.Module):
    """``x + attn(norm1(x))``, then ``x + ffn(norm2(x))``, on tokens ``(B, N, C)``.

    Args:
        embed_dims: Channels.
        attn, ffn: Modules that keep the shape of tokens.
        drop_path_rate: Probability with which a sample skips a residual branch.
    """

    def __init__(self, embed_dims: int, attn: nn.Module, ffn: nn.Module, drop_path_rate: float
                 ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(embed_dims), nn.LayerNorm(embed_dims)
        self.attn, self.ffn = attn, ffn
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.ffn(self.norm2(x)))


@MODELS.register_module()
class MLiT(BaseModule):
    """mLiT (arXiv 2407.17783), a plain vision transformer whose maps have one stride.

    Its FFNs are :class:`mmscheme.layers.SharedExpertFFN`. With depth, their hidden width falls
    linearly and the number of experts grows; groups of queries share keys and values. Train it
    with ``mmscheme.AuxiliaryLossHook``, as our configs do.

    Args:
        arch: ``'s'``, ``'xs'``, ``'xxs'`` or a dict with the keys ``embed_dims``, ``num_layers``,
            ``hidden_dims`` (of the first and of the last layer), ``num_heads``, ``num_groups``
            and optionally ``num_experts``, one number for each third of the depth.
        img_size: Height and width, or one number for both, that the position embedding is made
            for; it is interpolated to other sizes.
        patch_size: Side of a patch, the stride of the maps. Images are padded to a multiple.
        in_channels: Channels of the input image.
        drop_rate: Dropout in the FFNs.
        drop_path_rate: Stochastic depth of the last layer, linear from 0 in the first.
        out_type: ``'featmap'`` for maps, ``'cls_token'`` for the class token.
        out_indices: Layers to return, counted from 0, or backwards from -1. The final norm is
            applied to the output of the last layer.
        with_cp: Save memory by recomputing each layer in the backward pass.
        init_cfg: Initialisation by mmengine.
        experts: Options of the FFNs other than ``num_experts``; see
            :class:`mmscheme.layers.SharedExpertFFN`.

    Raises:
        TypeError, ValueError: An argument is not as above; the message names it.
    """

    @takes_options_of(SharedExpertFFN, but=('num_experts', 'drop'))
    def __init__(self, arch: Union[str, dict] = 's', *, img_size: Union[int, Sequence[int]] = 36,
                 patch_size: int = 3, in_channels: int = 3, drop_rate: float = 0.,
                 drop_path_rate: float = 0., out_type: str = 'featmap',
                 out_indices: Union[int, Sequence[int]] = -1, with_cp: bool = False,
                 init_cfg: Optional[Union[dict, List[dict]]] = None, **experts: Any) -> None:
        super().__init__(init_cfg)
        settings = _read_arch(arch)
        dims, depth = settings['embed_dims'], settings['num_layers']
        check_number('drop_rate', drop_rate, 'a probability', lambda n: 0 <= n <= 1)
        check_number('drop_path_rate', drop_path_rate, 'a probability below 1',
                     lambda n: 0 <= n < 1)
        check_choice('out_type', out_type, ('featmap', 'cls_token'))
        check_flags(with_cp=with_cp)
        for name, count in (('patch_size', patch_size), ('in_channels', in_channels)):
            check_count(name, count)
        sides = (img_size, ) * 2 if isinstance(img_size, int) else img_size
        if not isinstance(sides, (list, tuple)) or len(sides) != 2:
            raise ValueError('img_size: expected a number or (height, width), found '
                             f'{img_size!r}')
        for side in sides:
            check_count('img_size', side, patch_size)
        wanted = (out_indices, ) if isinstance(out_indices, int) else out_indices
        self.out_indices = tuple(sorted(read_indices(
            'out_indices', [i + depth if isinstance(i, int) and i < 0 else i for i in wanted],
            depth, f'layers from 0 to {depth - 1}')))
        self.arch, self.patch_size, self.out_type, self.with_cp = (
            arch, patch_size, out_type, with_cp)
        #: Of the position embedding.
        self.grid = tuple(-(-side // patch_size) for side in sides)
        self.patch_embed = nn.Conv2d(in_channels, dims, patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dims))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + self.grid[0] * self.grid[1], dims))
        for p in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(p, std=0.02)
        rates = torch.linspace(0, drop_path_rate, depth, device='cpu').tolist()
        self.layers = nn.ModuleList(
            MLiTLayer(dims, GroupedQueryAttention(dims, num_heads=settings['num_heads'],
                                                  num_groups=settings['num_groups']),
                      SharedExpertFFN(dims, hidden, num_experts=number, drop=drop_rate, **experts),
                      rate)
            # Layers after the last output would never be used.
            for (hidden, number), rate, _ in zip(_layers_of(settings), rates,
                                                 range(self.out_indices[-1] + 1)))
        self.norm = nn.LayerNorm(dims) if self.out_indices[-1] == depth - 1 else None

    def get_layer_depth(self, param_name: str, prefix: str = '') -> Tuple[int, int]:
        """Return the depth of a parameter, for layer-wise learning-rate decay as in mmpretrain.

        Args:
            param_name: In the model.
            prefix: Prefix of the backbone in that name.

        Returns:
            The depth and the number of depths: 0 is all before the layers, then comes one a
            layer; the last is what follows and all that is not of the backbone.
        """
        last = len(self.layers) + 1
        kind, *rest = param_name.removeprefix(prefix).split('.')
        if not param_name.startswith(prefix) or kind == 'norm':
            return last, last + 1
        return int(rest[0]) + 1 if kind == 'layers' else 0, last + 1

    def _embed(self, x: Tensor) -> Tuple[Tensor, Tuple[int, int]]:
        """Return patches with their position embedding ``(B, N, C)``, and their grid."""
        if not exporting() and (x.dim() != 4 or x.shape[1] != self.patch_embed.in_channels
                                or 0 in x.shape):
            raise ValueError(f'expected images (B, {self.patch_embed.in_channels}, H, W), found '
                             f'shape {tuple(x.shape)}')
        height, width = x.shape[2:]
        x = self.patch_embed(F.pad(x, (0, -width % self.patch_size, 0, -height % self.patch_size)))
        grid = (x.shape[2], x.shape[3])
        embed = self.pos_embed[:, 1:]
        if grid != self.grid:
            maps = embed.mT.unflatten(2, self.grid).float()
            embed = F.interpolate(maps, grid, mode='bicubic', align_corners=False).flatten(2).mT
        return x.flatten(2).mT + embed.to(x.dtype), grid

    def _run(self, tokens: Tensor) -> Iterator[Tuple[int, Tensor]]:
        """Yield the output of each layer, class token first, from patches."""
        first = (self.cls_token + self.pos_embed[:, :1]).to(tokens.dtype)
        x = torch.cat((first.expand(len(tokens), -1, -1), tokens), 1)
        for i, layer in enumerate(self.layers):
            if self.with_cp and x.requires_grad:
                x = checkpoint(layer, x, use_reentrant=False)
            else:
                x = layer(x)
            last = i == len(self.layers) - 1
            yield i, self.norm(x) if last and self.norm is not None else x

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Compute maps or class tokens.

        Args:
            x: Images ``(B, 3, H, W)``.

        Returns:
            For each of ``out_indices`` a map ``(B, C, H / patch_size, W / patch_size)``, rounded
            up, or a class token ``(B, C)``.
        """
        tokens, grid = self._embed(x)
        outs = [out for i, out in self._run(tokens) if i in self.out_indices]
        if self.out_type == 'cls_token':
            return tuple(out[:, 0] for out in outs)
        return tuple(out[:, 1:].mT.unflatten(2, grid).contiguous() for out in outs)


@MODELS.register_module()
class MAEMLiT(MLiT):
    """mLiT that sees only a part of the patches, for ``mmpretrain.MAE``.

    Args:
        mask_ratio: Share of the patches that are hidden.
        backbone: See :class:`MLiT`.

    Raises:
        TypeError, ValueError: An argument is not as above; the message names it.
    """

    @takes_options_of(MLiT, but=())
    def __init__(self, arch: Union[str, dict] = 's', *, mask_ratio: float = 0.75, **backbone: Any
                 ) -> None:
        super().__init__(arch, **backbone)
        check_number('mask_ratio', mask_ratio, 'a share in (0, 1)', lambda n: 0 < n < 1)
        self.mask_ratio = mask_ratio

    def forward(self, x: Tensor, mask: Optional[bool] = True) -> Tuple[Tensor, ...]:
        """Encode the patches that are left.

        Args:
            x: Images ``(B, 3, H, W)``.
            mask: None or False encodes all of them, see :meth:`MLiT.forward`.

        Returns:
            Tokens ``(B, 1 + kept, C)`` with the class token; a mask ``(B, N)``, 1 for hidden
            patches; and where in the shuffled order each patch is, ``(B, N)``.
        """
        if not mask:
            return super().forward(x)
        patches, _ = self._embed(x)
        batch, number, dims = patches.shape
        order = torch.rand(batch, number, device=x.device).argsort(1)
        restore = order.argsort(1)
        kept = max(1, int(number * (1 - self.mask_ratio)))
        visible = patches.gather(1, order[:, :kept, None].expand(-1, -1, dims))
        *_, (_, latent) = self._run(visible)
        return latent, (restore >= kept).to(patches.dtype), restore
