"""Where the stock backbones have their channel mixers: one table, one entry a family.

Classes are named by where they are defined, so that nothing is imported that a user
does not have. A family of one's own is one more entry in :data:`ADAPTERS`.
"""
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple, Union

from torch import nn

__all__ = ['ADAPTERS', 'Adapter', 'DenseMixer', 'find_channel_mixers']


class Adapter(NamedTuple):
    """How a family's channel mixer is made.

    Attributes:
        chain: The submodules from the first to the last, in the order of their use; a
            ``Sequential`` stands for its parts. None among them is left out.
        slot: The submodule whose place the SCHEME mixer takes; what else the chain has
            passes its input on from then. Empty: the mixer replaces the module as a whole,
            whose forward is the chain and nothing else.
        over_map: Submodules of the chain that look at all positions, with the arguments
            that they are called with on maps ``(B, H, W, C)``.
    """
    chain: Tuple[str, ...]
    slot: str = ''
    over_map: Mapping[str, Dict[str, Any]] = {}


# Residual, layer scale and drop path stay where they are: around the layers.
_SEQUENTIAL = Adapter(('layers', ), 'layers')
_MLP = ('fc1', 'act', 'drop', 'fc2', 'drop')
_DEPTHWISE = Adapter(('fc1', 'dwconv', 'act', 'drop', 'fc2', 'drop'))

#: The families. A subclass belongs to its base's unless it has a forward of its own.
ADAPTERS: Dict[str, Adapter] = {
    'mmcv.cnn.bricks.transformer.FFN': _SEQUENTIAL,
    'mmpretrain.models.backbones.deit3.DeiT3FFN': _SEQUENTIAL,
    'mmseg.models.backbones.mit.MixFFN': _SEQUENTIAL,
    'mmdet.models.backbones.pvt.MixFFN': _SEQUENTIAL,
    'mmpretrain.models.backbones.van.MixFFN': _DEPTHWISE,
    'mmseg.models.backbones.mscan.Mlp': _DEPTHWISE,
    'mmpretrain.models.backbones.poolformer.Mlp': Adapter(_MLP),
    'mmpretrain.models.backbones.hivit.Mlp': Adapter(('fc1', 'act', 'fc2', 'drop')),
    # Its norm is part of it, and comes before the mixer.
    'mmpretrain.models.backbones.tinyvit.MLP': Adapter(_MLP, 'fc1'),
    'mmpretrain.models.backbones.convnext.ConvNeXtBlock': Adapter(
        ('pointwise_conv1', 'act', 'grn', 'pointwise_conv2'), 'pointwise_conv1',
        dict(grn=dict(data_format='channel_last'))),
    'mmpretrain.models.backbones.edgenext.SDTAEncoder': Adapter(
        ('pointwise_conv1', 'act', 'pointwise_conv2'), 'pointwise_conv1'),
    'timm.layers.mlp.Mlp': Adapter(('fc1', 'act', 'drop1', 'norm', 'fc2', 'drop2')),
    'timm.layers.mlp.ConvMlp': Adapter(('fc1', 'norm', 'act', 'drop', 'fc2')),
    'timm.layers.mlp.GlobalResponseNormMlp': Adapter(
        ('fc1', 'act', 'drop1', 'grn', 'fc2', 'drop2'), over_map=dict(grn={})),
}

#: Modules of these names, and all in them, are left alone: mixers of tokens, and heads.
_NOT_CHANNEL_MIXERS = {'token_mix', 'mlp_tokens', 'head', 'attn_pool'}

#: Tokens before the positions, by the class and its submodule in which they are there:
#: their number or the attribute that has it; None where there are no positions at all. Where
#: nothing is said, every token is a position.
_EXTRA_TOKENS: Dict[Tuple[str, str], Union[int, str, None]] = {
    ('mmpretrain.models.backbones.vision_transformer.VisionTransformer', 'layers'):
        'num_extra_tokens',
    ('mmpretrain.models.backbones.beit.BEiTViT', 'layers'): 'num_extra_tokens',
    ('mmpretrain.models.backbones.revvit.RevVisionTransformer', 'layers'): 'num_extra_tokens',
    ('mmpretrain.models.backbones.t2t_vit.T2T_ViT', 'encoder'): 'num_extra_tokens',
    ('mmpretrain.models.backbones.tnt.TnTLayer', 'outer_block'): 1,
    ('mmpretrain.models.backbones.xcit.XCiT', 'ca_layers'): None,
    ('mmseg.models.backbones.vit.VisionTransformer', 'layers'): 1,
    ('mmseg.models.backbones.beit.BEiT', 'layers'): 1,
    ('timm.models.vision_transformer.VisionTransformer', 'blocks'): 'num_prefix_tokens',
    ('timm.models.beit.Beit', 'blocks'): 'num_prefix_tokens',
    ('timm.models.eva.Eva', 'blocks'): 'num_prefix_tokens',
    ('timm.models.tnt.Block', 'mlp'): 1,
    ('timm.models.cait.Cait', 'blocks_token_only'): None,
    ('timm.models.xcit.Xcit', 'cls_attn_blocks'): None,
    ('timm.models.volo.VOLO', 'post_network'): None,
}


class DenseMixer(NamedTuple):
    """A channel mixer of a stock backbone.

    Attributes:
        name: Of the module in the backbone.
        module: The module.
        adapter: How it is made.
        parts: Its submodules in the order of their use, by their names in it: first a layer
            from ``C`` to the hidden channels, somewhere the one back to ``C``.
        last: Which of the parts is the second layer.
        extra_tokens: How many of the tokens it gets come before those of the positions;
            None: none of them is a position.
    """
    name: str
    module: nn.Module
    adapter: Adapter
    parts: List[Tuple[str, nn.Module]]
    last: int
    extra_tokens: Optional[int]

    @property
    def layers(self) -> Tuple[nn.Module, nn.Module]:
        """The two dense layers."""
        return self.parts[0][1], self.parts[self.last][1]

    @property
    def widths(self) -> Tuple[int, int]:
        """Channels and hidden channels."""
        return _widths(self.layers[1])[::-1]


def _names(module: nn.Module) -> List[str]:
    """The full names of a module's class and its bases."""
    return [f'{base.__module__}.{base.__qualname__}' for base in type(module).__mro__]


def _adapter(module: nn.Module) -> Optional[Adapter]:
    for base, name in zip(type(module).__mro__, _names(module)):
        if name in ADAPTERS:
            # With a forward of its own it is something else.
            same = getattr(type(module), 'forward', None) is getattr(base, 'forward', None)
            return ADAPTERS[name] if same else None
    return None


def _flat(name: str, module: nn.Module) -> Iterator[Tuple[str, nn.Module]]:
    if isinstance(module, nn.Sequential):
        for key, child in module.named_children():
            yield from _flat(f'{name}.{key}', child)
    else:
        yield name, module


def _is_dense(module: nn.Module) -> bool:
    """Whether this is a dense layer over the channels."""
    return isinstance(module, nn.Linear) or (
        isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1)


def _widths(layer: nn.Module) -> Tuple[int, int]:
    """Input and output channels of a dense layer."""
    out_channels, in_channels = layer.weight.shape[:2]
    return in_channels, out_channels


def _extra_tokens(backbone: nn.Module, name: str) -> Optional[int]:
    """The extra tokens where a submodule is, from the table."""
    owner, path = backbone, name.split('.')
    for child in path:
        for base in _names(owner):
            if (base, child) in _EXTRA_TOKENS:
                found = _EXTRA_TOKENS[base, child]
                return getattr(owner, found) if isinstance(found, str) else found
        owner = getattr(owner, child)
    return 0


def find_channel_mixers(backbone: nn.Module) -> List[DenseMixer]:
    """Finds the dense channel mixers of a backbone.

    Those that change the width, token mixers and what is in heads are none.

    Args:
        backbone: A model of a family in :data:`ADAPTERS`.

    Returns:
        The mixers in the order of their registration; a shared module once.

    Raises:
        ValueError: A mixer has more or less than two layers.
    """
    found = []
    for name, module in backbone.named_modules():
        adapter = _adapter(module) if name else None
        if adapter is None or not _NOT_CHANNEL_MIXERS.isdisjoint(name.split('.')):
            continue
        parts = [part for key in adapter.chain if getattr(module, key) is not None
                 for part in _flat(key, getattr(module, key))]
        dense = [i for i, (_, part) in enumerate(parts) if _is_dense(part)]
        if not dense:  # has been replaced before
            continue
        if len(dense) != 2:
            raise ValueError(f'{name}: SCHEME replaces channel mixers of 2 layers, found one of '
                             f'{len(dense)}')
        mixer = DenseMixer(name, module, adapter, parts, dense[1], _extra_tokens(backbone, name))
        if _widths(mixer.layers[0]) == mixer.widths:
            found.append(mixer)
    return found
