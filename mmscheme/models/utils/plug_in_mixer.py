"""Our layers in the place of a dense channel mixer, and what becomes of its weights."""
import math
from copy import deepcopy
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from mmscheme.layers import BlockDiagonalLinear, DenseGuide, SCHEMEMixer, SharedExpertFFN
from mmscheme.layers.scheme_mixer import read_guide

from .dense_mixers import DenseMixer, is_activation

__all__ = ['PlugInExperts', 'PlugInMixer', 'diagonal_blocks']


_Part = Tuple[str, nn.Module, nn.Module]  # its name, its copy, what is called


def diagonal_blocks(weight: Tensor, groups: int) -> Tensor:
    """Return the weight of a block-diagonal layer made from that of a dense one.

    It is the blocks on the diagonal, times ``sqrt(groups)``: an output is a sum over ``groups``
    times fewer inputs, and keeps its variance for inputs that are independent.

    Args:
        weight: ``(C_out, C_in)``, or ``(C_out, C_in, 1, 1)`` of a convolution.
        groups: The number of blocks; divides both.

    Returns:
        ``(C_out, C_in / groups)``, as :class:`mmscheme.layers.BlockDiagonalLinear` has it.
    """
    blocks = weight.flatten(1).unflatten(1, (groups, -1)).unflatten(0, (groups, -1))
    diagonal = torch.arange(groups, device=weight.device)
    return blocks[diagonal, :, diagonal].flatten(0, 1) * math.sqrt(groups)


class _PassThrough(nn.Module):
    """Gives back its first argument, where a part of a dense mixer has been."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return x


class _OverMap(nn.Module):
    """A part that looks at whole maps ``(B, H, W, C)``, on tokens ``(B, N, C)``."""

    def __init__(self, part: nn.Module, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        self.part = part
        self.arguments = dict(arguments)

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x.unsqueeze(2), **self.arguments).squeeze(2)


class _Gated(nn.Module):
    """``act(gate) * values`` of each group: from twice the hidden channels to these."""

    def __init__(self, act: nn.Module, groups: int) -> None:
        super().__init__()
        self.act = act
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        dim = 1 if x.dim() == 4 else x.dim() - 1
        gate, values = x.unflatten(dim, (self.groups, 2, -1)).unbind(dim + 1)
        return (self.act(gate) * values).flatten(dim, dim + 1)


class _WithIdentity(nn.Module):
    """A mixer and what its module does after it, which is called with ``identity``."""

    def __init__(self, stock: nn.Module, mixer: nn.Module, keeps: Tuple[str, ...]) -> None:
        super().__init__()
        self.mixer, self.add_identity, self.keeps = mixer, stock.add_identity, keeps
        for key in keeps:
            self.add_module(key, getattr(stock, key))

    def forward(self, x: Tensor, identity: Optional[Tensor] = None) -> Tensor:
        out = self.mixer(x)
        for key in self.keeps:
            out = getattr(self, key)(out)
        if not self.add_identity:
            return out
        return (x if identity is None else identity) + out


def _of_width(part: nn.Module, old: int, new: int) -> nn.Module:
    """Copy what stands between the layers, for another hidden width.

    Depthwise convolutions start anew; vectors with one value a channel are repeated.
    """
    if isinstance(part, nn.Conv2d) and old != new:
        return nn.Conv2d(new, new, part.kernel_size, part.stride, part.padding, part.dilation,
                         groups=new, bias=part.bias is not None)
    copy = deepcopy(part)
    if old == new:
        return copy
    for module in copy.modules():
        for key, tensor in [*module.named_parameters(recurse=False),
                            *module.named_buffers(recurse=False)]:
            if tensor.shape == (old, ):
                values = tensor.detach().repeat(-(-new // old))[:new]
                learned = isinstance(tensor, nn.Parameter)
                setattr(module, key, nn.Parameter(values) if learned else values)
        if isinstance(module, nn.LayerNorm):
            module.normalized_shape = (new, )
    return copy


class _PlugIn(nn.Module):
    """Makes a layer, whose class it comes before, stand in for a stock channel mixer.

    Attributes:
        stock_keys: What the mixer has for each entry of the dense one's state dict, by their
            keys: that in the mixer and the groups of a layer's weight (0 for all else). Gate and
            values share an entry; nothing is taken where it is empty.
        channels_last: Whether maps are (B, H, W, C), as those that a linear layer gets.
    """
    stock_keys: Dict[str, Tuple[str, int]]
    channels_last: bool

    def _settle(self, dense: DenseMixer) -> None:
        """Take over device, dtype, mode and layout."""
        first = dense.layers[0]
        self.channels_last = isinstance(first, nn.Linear)
        self.to(first.weight)
        # In a frozen stage.
        self.requires_grad_(first.weight.requires_grad).train(first.training)

    def ends(self) -> Tuple[nn.Module, nn.Module]:
        """Return the first and the last layer."""
        raise NotImplementedError

    def take_place(self, backbone: nn.Module, dense: DenseMixer) -> str:
        """Replace the dense mixer in its backbone and return the name of this one there."""
        slot, keeps = dense.adapter.slot, dense.adapter.keeps
        new: nn.Module = _WithIdentity(dense.module, self, keeps) if keeps else self
        if slot:
            for key in dense.adapter.chain:
                if getattr(dense.module, key) is not None:
                    setattr(dense.module, key, _PassThrough())
            setattr(dense.module, slot, self)
            return f'{dense.name}.{slot}'
        for name, module in list(backbone.named_modules(remove_duplicate=False)):
            if module is dense.module:  # more than once when it is shared
                parent, _, key = name.rpartition('.')
                setattr(backbone.get_submodule(parent), key, new)
        return f'{dense.name}.mixer' if keeps else dense.name

    # The initialisation of BEiT and MAE rescales the second layer where it was.

    @property
    def fc2(self) -> nn.Module:
        """The second layer, as ``mlp.fc2`` in timm."""
        return self.ends()[1]

    def __getitem__(self, index: int) -> nn.Module:
        """Return one of the two layers, as ``ffn.layers[1]`` in mmsegmentation."""
        return self.ends()[index]

    def forward(self, x: Tensor, size: Optional[Sequence[int]] = None) -> Tensor:
        """See the layer.

        Args:
            x: Tokens ``(B, N, C)``; or a map in the layout of the layers that were replaced:
                ``(B, C, H, W)`` for convolutions, ``(B, H, W, C)`` with any number of
                axes in the middle for linear layers.
            size: Height and width of the map whose positions are the tokens, where something
                between the layers wants a map.

        Returns:
            The shape of ``x``.
        """
        if size is not None:
            return super().forward(x.mT.unflatten(2, tuple(size))).flatten(2).mT
        if not self.channels_last or x.dim() <= 3:
            return super().forward(x)
        return super().forward(x.flatten(1, -2)).reshape(x.shape)


class PlugInMixer(_PlugIn, SCHEMEMixer):
    """A SCHEME mixer that takes the place of the dense layers of a stock channel mixer.

    What stands between and behind the layers comes along: activation, dropout, and a
    depthwise convolution or a norm, which become a part of ``ffn.act`` and ``ffn.drop2``.

    In a gated FFN such as SwiGLU, ``W2(act(Wg x) * (Wv x))``, gate and values have
    ``groups[0]`` blocks alike: block ``k`` of both reads slice ``k`` of the channels. They are
    one layer, ``ffn.fc1``, whose block ``k`` has the rows of the gate before those of the
    values. The hidden channels are those of the values: with them the expansion of a dense
    SwiGLU of the usual cost is 8/3, not 4.

    Args:
        dense: The mixer to replace.
        hidden_dims: Hidden channels.
        groups: Blocks of the two layers.
        mixer: Options of :class:`mmscheme.layers.SCHEMEMixer`. There is no CCA where none of the
            tokens is a position.

    Attributes:
        stock_hidden: Hidden channels of the dense mixer.
    """

    def __init__(self, dense: DenseMixer, hidden_dims: int, groups: Tuple[int, int],
                 **mixer: Any) -> None:
        (embed_dims, stock_hidden), gate = dense.widths, dense.adapter.gate
        first, last = dense.layers
        start = max(1, gate)

        def bring(parts: Sequence[Tuple[str, nn.Module]], old: int, new: int) -> List[_Part]:
            found = []
            for name, part in parts:
                if isinstance(part, nn.Identity):
                    continue
                copy = _of_width(part, old, new)
                used = copy
                if name in dense.adapter.over_map and isinstance(first, nn.Linear):
                    used = _OverMap(copy, dense.adapter.over_map[name])
                found.append((name, copy, used))
            return found

        between = bring(dense.parts[start:dense.last], stock_hidden, hidden_dims)
        behind = bring(dense.parts[dense.last + 1:], embed_dims, embed_dims)
        # The dropout before the second layer has a place of its own.
        drop = between.pop()[1].p if between and isinstance(between[-1][1], nn.Dropout) else 0.
        parts = [used for _, _, used in between]
        if gate:
            if 'act' not in dense.adapter.chain:
                parts.insert(0, nn.SiLU())
            parts[0] = _Gated(parts[0], groups[0])
        if read_guide(**mixer) == 'cca' and dense.extra_tokens is None:
            mixer['guide'] = None
        super().__init__(embed_dims, hidden_dims, groups, **mixer,
                         act_layer=lambda: parts[0] if len(parts) == 1 else nn.Sequential(*parts))
        if gate:
            start_options = {key: mixer[key] for key in ('init_std', 'match_variance')
                             if key in mixer}
            self.ffn.fc1 = BlockDiagonalLinear(embed_dims, 2 * hidden_dims, groups[0],
                                               **start_options)
            if isinstance(self.guide, DenseGuide):
                self.guide = DenseGuide(self.ffn)
        self.ffn.drop1.p = drop
        self.ffn.drop2.p = next((part.p for _, part, _ in behind
                                 if isinstance(part, nn.Dropout)), 0.)
        behind = [part for part in behind if not isinstance(part[1], nn.Dropout)]
        if behind:
            self.ffn.drop2 = nn.Sequential(*(used for _, _, used in behind), self.ffn.drop2)
        if self.cca is not None:
            self.cca.num_extra_tokens = dense.extra_tokens or 0
        for layer, stock in ((self.ffn.fc1, first), (self.ffn.fc2, last)):
            if stock.bias is None:
                layer.register_parameter('bias', None)
        self.stock_hidden = stock_hidden
        self._gate = gate
        self._gate_last = getattr(dense.module, 'gate_last', False)
        self.stock_keys = self._stock_keys(dense, [(name, copy) for name, copy, _ in
                                                   (*between, *behind)])
        self._settle(dense)

    def _stock_keys(self, dense: DenseMixer, others: List[Tuple[str, nn.Module]]
                    ) -> Dict[str, Tuple[str, int]]:
        names = {module: name for name, module in self.named_modules()}
        layers = [(name, self.ffn.fc1) for name, _ in dense.parts[:max(1, self._gate)]]
        layers.append((dense.parts[dense.last][0], self.ffn.fc2))
        keys = {f'{stock}.{key}': (f'{names[module]}.{key}', 0)
                for stock, module in [*layers, *others] for key in module.state_dict()}
        for stock, layer in layers:
            keys[f'{stock}.weight'] = f'{names[layer]}.weight', layer.groups
        return keys

    def from_dense(self, state_dict: Mapping[str, Tensor]) -> Dict[str, Tensor]:
        """Return the weights that the layers here take from a dense mixer.

        Args:
            state_dict: Of the dense mixer, with as many hidden channels as are here; entries
                that are none of its layers do not count.

        Returns:
            Entries of the state dict: :func:`diagonal_blocks` of the layers' weights, and the
            rest as it is.
        """
        seeds: Dict[str, Tensor] = {}
        for key, (own, groups) in self.stock_keys.items():
            if key in state_dict:
                halves = 2 if self._gate == 1 and own.startswith('ffn.fc1.') else 1
                value = torch.cat([diagonal_blocks(v, groups) if groups else v
                                   for v in state_dict[key].chunk(halves)]
                                  ) if halves > 1 or groups else state_dict[key]
                seeds[own] = torch.cat([seeds[own], value]) if own in seeds else value
        for own in [key for key in seeds if self._gate and key.startswith('ffn.fc1.')]:
            gate, values = (half.unflatten(0, (self.ffn.fc1.groups, -1))
                            for half in seeds[own].chunk(2)[::-1 if self._gate_last else 1])
            seeds[own] = torch.cat([gate, values], 1).flatten(0, 1)
        return seeds

    def ends(self) -> Tuple[nn.Module, nn.Module]:
        """Return the first and the last layer."""
        return self.ffn.fc1, self.ffn.fc2


class PlugInExperts(_PlugIn, SharedExpertFFN):
    """A shared-expert FFN in the place of a stock channel mixer, whose dropout comes along.

    Args:
        dense: The mixer to replace. Between and behind its layers it may have an activation,
            which SiLU replaces, and dropout.
        hidden_dims: Hidden channels of an expert.
        options: Of :class:`mmscheme.layers.SharedExpertFFN`.

    Raises:
        ValueError: The mixer has other parts.
    """

    def __init__(self, dense: DenseMixer, hidden_dims: int, **options: Any) -> None:
        behind = [part for _, part in dense.parts[dense.last + 1:]]
        between = dense.parts[max(1, dense.adapter.gate):dense.last]
        alien = [name for name, part in dense.parts if not (
            part in dense.layers or isinstance(part, (nn.Dropout, nn.Identity, nn.Linear))
            or is_activation(part) and part not in behind)]
        if alien:
            raise ValueError(f'{dense.name}: shared experts replace FFNs of two layers, activation '
                             f'and dropout, found {", ".join(alien)} in it')
        super().__init__(dense.widths[0], hidden_dims, **options)
        self.drop1.p, self.drop2.p = (
            next((part.p for part in parts if isinstance(part, nn.Dropout)), 0.)
            for parts in ([part for _, part in between], behind))
        self.stock_keys = {f'{name}.{key}': ('', 0) for name, part in dense.parts
                           for key in part.state_dict()}
        self._settle(dense)

    def ends(self) -> Tuple[nn.Module, nn.Module]:
        """Return the first and the last layer."""
        return self.w1, self.w2
