"""Find the channel mixers of stock backbones: one table, one entry a family.

Classes are named by where they are defined, so that nothing is imported that a user
does not have. A family of one's own is one more entry in :data:`ADAPTERS`.
"""
from difflib import SequenceMatcher
from fnmatch import fnmatchcase
from os.path import commonprefix
from typing import (
    Any,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
)

from torch import nn

__all__ = [
    'ADAPTERS', 'Adapter', 'DenseMixer', 'Names', 'describe_unknown', 'find_channel_mixers',
    'find_dense_pairs', 'image_encoder_layers', 'is_activation', 'is_within', 'name_of_stack',
    'sees_positions', 'select_mixers', 'select_names'
]

#: A name or pattern, or several, or None; see :func:`is_within`.
Names = Union[str, Sequence[str], None]


class Adapter(NamedTuple):
    """Describe the channel mixer of a family.

    Attributes:
        chain: The submodules from the first to the last, in the order of their use; a
            ``Sequential`` stands for its parts. None among them is left out.
        slot: The submodule whose place the SCHEME mixer takes; what else the chain has
            passes its input on from then. Empty: the mixer replaces the module as a whole,
            whose forward is the chain and nothing else.
        over_map: Submodules of the chain that look at all positions, with the arguments
            that they are called with on maps ``(B, H, W, C)``.
        extra_tokens: Leading tokens of its input that are no positions, such as a class token.
            None: a trial tells, see :func:`mmscheme.models.utils.trial.try_backbone`.
        gate: How many layers make the input of a gated second layer, such as SwiGLU's: 1 for
            gate and values in the halves of one layer (the gate first unless the module has
            ``gate_last``), 2 for the layer of the gate and that of the values, first in the
            chain. Without an activation in the chain the gate's is SiLU.
        keeps: Submodules that act after the mixer, where the module adds ``identity`` as
            mmpretrain's ``SwiGLUFFN`` does.
    """
    chain: Tuple[str, ...]
    slot: str = ''
    over_map: Mapping[str, Dict[str, Any]] = {}
    extra_tokens: Optional[int] = None
    gate: int = 0
    keeps: Tuple[str, ...] = ()


# Residual, layer scale and drop path stay where they are: around the layers.
_SEQUENTIAL = Adapter(('layers', ), 'layers')
_MLP = ('fc1', 'act', 'drop', 'fc2', 'drop')
_DEPTHWISE = Adapter(('fc1', 'dwconv', 'act', 'drop', 'fc2', 'drop'))
_CONV_NORM = Adapter(('fc1', 'norm1', 'act', 'drop', 'fc2', 'norm2', 'drop'))
_CONV_NORMS = Adapter(('pw1', 'act', 'pw2'))
_SWIGLU_FFN = Adapter(('w12', 'norm', 'w3'), gate=1, keeps=('gamma2', 'dropout_layer'))

#: The families. A subclass belongs to its base's unless it has a forward of its own.
ADAPTERS: Dict[str, Adapter] = {
    'mmcv.cnn.bricks.transformer.FFN': _SEQUENTIAL,
    'mmpretrain.models.backbones.deit3.DeiT3FFN': _SEQUENTIAL,
    'mmseg.models.backbones.mit.MixFFN': _SEQUENTIAL,
    'mmdet.models.backbones.pvt.MixFFN': _SEQUENTIAL,
    'mmpretrain.models.backbones.van.MixFFN': _DEPTHWISE,
    'mmseg.models.backbones.mscan.Mlp': _DEPTHWISE,
    'mmpretrain.models.backbones.poolformer.Mlp': Adapter(_MLP),
    'mmpretrain.models.backbones.mvit.MLP': Adapter(('fc1', 'act', 'fc2')),
    'mmpretrain.models.backbones.hivit.Mlp': Adapter(('fc1', 'act', 'fc2', 'drop')),
    # Its norm is part of it, and comes before the mixer.
    'mmpretrain.models.backbones.tinyvit.MLP': Adapter(_MLP, 'fc1'),
    'mmpretrain.models.backbones.convnext.ConvNeXtBlock': Adapter(
        ('pointwise_conv1', 'act', 'grn', 'pointwise_conv2'), 'pointwise_conv1',
        dict(grn=dict(data_format='channel_last'))),
    'mmpretrain.models.backbones.edgenext.SDTAEncoder': Adapter(
        ('pointwise_conv1', 'act', 'pointwise_conv2'), 'pointwise_conv1'),
    'mmpretrain.models.backbones.hornet.HorNetBlock': Adapter(
        ('pwconv1', 'act', 'pwconv2'), 'pwconv1'),
    'mmpretrain.models.backbones.efficientformer.LinearMlp': Adapter(
        ('fc1', 'act', 'drop1', 'fc2', 'drop2')),
    'mmpretrain.models.backbones.efficientformer.ConvMlp': _CONV_NORM,
    'mmpretrain.models.utils.swiglu_ffn.SwiGLUFFN': _SWIGLU_FFN,
    'mmpretrain.models.utils.swiglu_ffn.SwiGLUFFNFused': _SWIGLU_FFN,
    'timm.models.efficientformer.ConvMlpWithNorm': _CONV_NORM,
    'timm.models.efficientvit_msra.ConvMlp': _CONV_NORMS,
    'timm.models.fastvit.ConvMlp': Adapter(('fc1', 'act', 'drop', 'fc2', 'drop'), 'fc1'),
    'timm.models.inception_next.ConvMlp': Adapter(('fc1', 'norm', 'act', 'drop', 'fc2')),
    'timm.models.pvt_v2.MlpWithDepthwiseConv': Adapter(
        ('fc1', 'relu', 'dwconv', 'act', 'drop', 'fc2', 'drop')),
    'timm.models.repvit.RepVitMlp': Adapter(('conv1', 'act', 'conv2')),
    'timm.models.shvit.FFN': _CONV_NORMS,
    'timm.models.tiny_vit.NormMlp': Adapter(('fc1', 'act', 'drop1', 'fc2', 'drop2'), 'fc1'),
    'timm.layers.mlp.GluMlp': Adapter(('fc1', 'act', 'drop1', 'norm', 'fc2', 'drop2'), gate=1),
    'timm.layers.mlp.SwiGLU': Adapter(
        ('fc1_g', 'fc1_x', 'act', 'drop1', 'norm', 'fc2', 'drop2'), gate=2),
    'timm.layers.mlp.Mlp': Adapter(('fc1', 'act', 'drop1', 'norm', 'fc2', 'drop2')),
    'timm.layers.mlp.ConvMlp': Adapter(('fc1', 'norm', 'act', 'drop', 'fc2')),
    'timm.layers.mlp.GlobalResponseNormMlp': Adapter(
        ('fc1', 'act', 'drop1', 'grn', 'fc2', 'drop2'), over_map=dict(grn={})),
}

#: Modules of these names, and all in them, are left alone: mixers of tokens, and heads.
_NOT_CHANNEL_MIXERS = {'token_mix', 'mlp_tokens', 'token_mixer', 'attn', 'head', 'attn_pool',
                       'rel_pos'}

# An encoder whose ``layers`` get positions of the image and nothing else; ``self_attn`` of a layer
# is told which are padding.
_IMAGE_ENCODER = 'mmdet.models.layers.transformer.detr_layers.DetrTransformerEncoder'


class DenseMixer(NamedTuple):
    """A channel mixer of a stock backbone.

    Attributes:
        name: Name of the module in the backbone.
        module: The module.
        adapter: How it is made.
        parts: Its submodules in the order of their use, by their names in it: first a layer
            from ``C`` to the hidden channels, somewhere the one back to ``C``.
        last: Which of the parts is the second layer.
        extra_tokens: How many of the tokens it gets come before those of the positions;
            None: none of them is a position, as far as is known.
    """
    name: str
    module: nn.Module
    adapter: Adapter
    parts: List[Tuple[str, nn.Module]]
    last: int
    extra_tokens: Optional[int] = None

    @property
    def entry(self) -> str:
        """The name of the module that gets the mixer's input."""
        return f'{self.name}.{self.adapter.slot}' if self.adapter.slot else self.name

    @property
    def layers(self) -> Tuple[nn.Module, nn.Module]:
        """The two dense layers."""
        return self.parts[0][1], self.parts[self.last][1]

    @property
    def widths(self) -> Tuple[int, int]:
        """Channels and hidden channels: those that the second layer gets."""
        return _widths(self.layers[1])[::-1]


def _names(module: nn.Module) -> List[str]:
    """Return the full names of a module's class and its bases."""
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
    """Return True for a dense layer over the channels."""
    return isinstance(module, nn.Linear) or (
        isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1)


def _widths(layer: nn.Module) -> Tuple[int, int]:
    """Input and output channels of a dense layer."""
    out_channels, in_channels = layer.weight.shape[:2]
    return in_channels, out_channels


def find_channel_mixers(backbone: nn.Module) -> List[DenseMixer]:
    """Find the dense channel mixers of a backbone.

    Layers that change the width, token mixers and layers in heads do not count.

    Args:
        backbone: A model of a family in :data:`ADAPTERS`.

    Returns:
        The mixers in the order of their registration; a shared module once.

    Raises:
        ValueError: A mixer has more or less layers than its adapter allows.
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
        if len(dense) != 1 + max(1, adapter.gate):
            raise ValueError(f'{name}: SCHEME replaces channel mixers of 2 layers, found one of '
                             f'{len(dense)}')
        mixer = DenseMixer(name, module, adapter, parts, dense[-1], adapter.extra_tokens)
        channels, hidden = mixer.widths
        if _widths(mixer.layers[0]) == (channels, 2 * hidden if adapter.gate == 1 else hidden):
            found.append(mixer)
    return found


def is_within(name: str, patterns: Sequence[str]) -> bool:
    """Return True if a pattern is the name of a module, or of one that holds it.

    A pattern is compared with whole parts of the dotted name, anywhere in it: ``'encoder'``
    stands for all in modules of that name, ``'backbone.stages.[23]'`` for two stages.
    """
    parts = name.split('.')
    runs = {'.'.join(parts[i:j]) for j in range(1, len(parts) + 1) for i in range(j)}
    return any(fnmatchcase(run, pattern) for pattern in patterns for run in runs)


def _read_names(argument: str, value: Names) -> Tuple[str, ...]:
    names = (value, ) if isinstance(value, str) else value
    if not isinstance(names, (tuple, list)) or not all(isinstance(n, str) and n for n in names):
        raise TypeError(f'{argument}: expected the name of a module, a pattern, or several of '
                        f'them, found {value!r}')
    return tuple(names)


def select_names(names: Iterable[str], within: Names = None, exclude: Names = None) -> List[str]:
    """Return the names that are within ``within`` and not within ``exclude``; None: all, none."""
    chosen = list(names)
    if within is not None:
        chosen = [name for name in chosen if is_within(name, _read_names('within', within))]
    if exclude is not None:
        chosen = [name for name in chosen if not is_within(name, _read_names('exclude', exclude))]
    return chosen


def select_mixers(mixers: Sequence[DenseMixer], within: Names = None, exclude: Names = None
                  ) -> List[DenseMixer]:
    """Select channel mixers by their names.

    Args:
        mixers: As :func:`find_channel_mixers` finds them.
        within: Names or patterns, see :func:`is_within`, of what is selected; None: all.
        exclude: The same of what is left out.

    Returns:
        The selected ones, in their order.

    Raises:
        TypeError: An argument is neither a name nor several.
        ValueError: A name holds no channel mixer, or none is left.
    """
    known = {mixer.name: mixer for mixer in mixers}
    for argument, value in (('within', within), ('exclude', exclude)):
        for pattern in () if value is None else _read_names(argument, value):
            if not any(is_within(name, [pattern]) for name in known):
                stacks = ', '.join(dict.fromkeys(map(name_of_stack, known)))
                raise ValueError(f'{argument}: expected names or patterns of modules with channel '
                                 f'mixers, which are in {stacks}, found {pattern!r}')
    chosen = [known[name] for name in select_names(known, within, exclude)]
    if not chosen:
        raise ValueError(f'exclude: {exclude!r} leaves no channel mixer of within={within!r}')
    return chosen


def name_of_stack(name: str) -> str:
    """Return the part of a module's name before the first number, which counts blocks."""
    parts = name.split('.')
    numbers = [i for i, part in enumerate(parts) if part.isdigit() and i]
    return '.'.join(parts[:numbers[0]] if numbers else parts)


def image_encoder_layers(model: nn.Module) -> Dict[str, nn.Module]:
    """Return the layers, by name, of encoders whose tokens are the positions of an image."""
    return {f'{name}.layers.{i}'.removeprefix('.'): layer
            for name, module in model.named_modules() if _IMAGE_ENCODER in _names(module)
            for i, layer in enumerate(module.layers)}


def sees_positions(model: nn.Module, name: str) -> bool:
    """Return True for a module in the backbone of a model, or in an encoder of positions.

    Others, such as those in decoders, get queries or tokens of which nothing is known.
    """
    return name.startswith('backbone.') or any(
        name.startswith(f'{layer}.') for layer in image_encoder_layers(model))


def is_activation(module: nn.Module) -> bool:
    """Return True for a leaf that is neither a layer, a norm, dropout nor an identity."""
    kind = type(module).__name__.lower()
    return (not any(word in kind for word in ('drop', 'identity', 'norm', 'pool', 'scale',
                                              'flatten', 'pass', 'shuffle', 'rearrange'))
            and sum(p.numel() for p in module.parameters()) <= 2)


def find_dense_pairs(backbone: nn.Module) -> Dict[str, str]:
    """Find the modules with two dense layers ``C -> H -> C`` and one activation.

    It looks at widths and order alone and knows no family, so that it also finds the channel
    mixers that no adapter covers. ``H`` is at least ``C``, which leaves out squeeze and excite;
    an inverted bottleneck, whose norms and spatial convolution stand between the layers, mixes
    tokens as well and is none.

    Returns:
        The names of the first layers, and those of the modules that hold both.
    """
    leaves = [(name, m) for name, m in backbone.named_modules(remove_duplicate=False)
              if not [*m.children()]]
    dense = [i for i, (_, m) in enumerate(leaves) if _is_dense(m)]
    found: Dict[str, str] = {}
    for i, j in zip(dense, dense[1:]):
        (first, a), (last, b) = leaves[i], leaves[j]
        path = commonprefix([first.split('.'), last.split('.')])
        if (max(first.count('.'), last.count('.')) - len(path) > 1
                or not _NOT_CHANNEL_MIXERS.isdisjoint(path)):
            continue
        holder, between = '.'.join(path), [m for _, m in leaves[i + 1:j]]
        inside = backbone.get_submodule(holder).modules()
        acts = {m for m in (*between, *inside) if not [*m.children()] and is_activation(m)}
        bottleneck = any(isinstance(m, nn.Conv2d) for m in between) and any(
            'norm' in type(m).__name__.lower() for m in between)
        (width, hidden), (back, out) = _widths(a), _widths(b)
        gated = hidden == 2 * back != 2 * width
        if (width == out and back >= width and not bottleneck
                and (hidden == back and len(acts) == 1 or gated)):
            found[first] = holder
    return found


def describe_unknown(backbone: nn.Module, pairs: Mapping[str, str]) -> str:
    """Describe modules that have no adapter: their classes, the nearest family, what to add.

    Args:
        backbone: The model.
        pairs: Some of those that :func:`find_dense_pairs` finds in it.
    """
    classes: Dict[str, Tuple[str, nn.Module]] = {}
    for first, holder in pairs.items():
        module = backbone.get_submodule(holder)
        classes.setdefault(_names(module)[0], (first, module))
    if not classes:
        return ('none of its modules has two dense layers C -> H -> C around an activation, '
                'without a convolution and norms between them')
    texts = []
    for name, (first, module) in classes.items():
        children = {key for key, _ in module.named_children()}
        # The same names of parts tell more than that of the class.
        nearest = max(ADAPTERS, key=lambda known: (
            len(children & {*ADAPTERS[known].chain}) / len(children | {*ADAPTERS[known].chain}),
            SequenceMatcher(None, name, known).ratio()))
        dense = [m for m in module.modules() if _is_dense(m)]
        gated = (_widths(backbone.get_submodule(first))[1] == 2 * _widths(dense[-1])[0]
                 or len(dense) > 2)
        texts.append(f'{name}{" is a gated FFN of a form that is not supported and" * gated} has '
                     f'no adapter, the nearest is that of {nearest}')
    return (f'{"; ".join(texts)}; mmscheme.models.utils.ADAPTERS[CLASS] = Adapter(CHAIN) adds a '
            'family whose forward calls the parts in CHAIN one after the other')
