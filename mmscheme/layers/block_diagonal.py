"""Linear layers and FFNs whose weight matrices are block diagonal."""
import math
from functools import partial
from numbers import Integral
from typing import Any, Callable, Dict, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmscheme.ops import IMPLEMENTATIONS, block_diagonal_mlp, choose_mlp, exporting
from mmscheme.utils.check_args import check_choice, check_count, check_flags, check_number

from .activations import apply_activation, fused_name, is_pointwise
from .fusable import is_plain, runs_own_forward

__all__ = ['BlockDiagonalLinear', 'BlockDiagonalMLP', 'block_diagonal_linear', 'parse_groups']

# Channels of a group below which OpenVINO's grouped convolution is slower than small dense ones.
_NARROW = 32


def parse_groups(groups: Union[int, Sequence[int]]) -> Tuple[int, int]:
    """Read ``groups`` as the pair (groups of the first layer, of the second).

    Args:
        groups: One number for both layers or a pair of numbers, each >= 1.

    Returns:
        The two numbers of groups.

    Raises:
        ValueError: ``groups`` is neither.
    """
    pair = (groups, groups) if isinstance(groups, Integral) else groups
    if not (isinstance(pair, (tuple, list)) and len(pair) == 2
            and all(isinstance(g, Integral) and not isinstance(g, bool) and int(g) >= 1
                    for g in pair)):
        raise ValueError(f'groups: expected a positive number or a pair of them, found {groups!r}')
    return int(pair[0]), int(pair[1])


def block_diagonal_linear(x: Tensor, weight: Tensor, bias: Union[Tensor, None] = None,
                          groups: int = 1) -> Tensor:
    """Apply ``y = W x + b`` over the channels with a block-diagonal ``W``.

    Block ``k`` of ``W`` maps the ``k``-th of ``groups`` equal slices of the input
    channels to the ``k``-th slice of the output channels; everything off the
    blocks is zero and neither stored nor computed.

    Args:
        x: A feature map ``(B, C_in, H, W)`` or tokens ``(B, N, C_in)`` / ``(N, C_in)``.
        weight: ``(C_out, C_in / groups)``, the blocks stacked. Seen as
            ``(C_out, C_in / groups, 1, 1)`` it is the weight of a grouped 1x1
            convolution, and for one group that of a dense linear layer.
        bias: ``(C_out,)`` or None.
        groups: The number of blocks.

    Returns:
        The same layout as ``x`` with ``C_out`` channels.
    """
    if groups > 1 and exporting() and _split_pays(x, groups, weight):
        return _by_group(lambda i, part: _block(i, part, weight, bias, groups), x, groups)
    if x.dim() == 4:
        return F.conv2d(x, weight[:, :, None, None], bias, groups=groups)
    if groups == 1:
        return F.linear(x, weight, bias)
    blocks = weight.unflatten(0, (groups, -1))
    y = torch.einsum('...gi,goi->...go', x.unflatten(-1, (groups, -1)), blocks).flatten(-2)
    return y if bias is None else y + bias


def _block(i: int, x: Tensor, weight: Tensor, bias: Union[Tensor, None], groups: int) -> Tensor:
    """Apply one block to its own channels."""
    size = weight.shape[0] // groups
    # By slices, because the ONNX exporter does not fold a split of constants.
    rows = slice(i * size, (i + 1) * size)
    return block_diagonal_linear(x, weight[rows], None if bias is None else bias[rows])


def _split_pays(x: Tensor, groups: int, *weights: Tensor) -> bool:
    """Return True if other runtimes compute small dense layers faster than one of groups.

    Einsums, and in OpenVINO convolutions with narrow groups, are slower than a dense layer of
    twice the arithmetic. Wider groups are faster as a convolution, which wakes threads only once.
    """
    widths = [n for w in weights for n in (w.shape[1], w.shape[0] // groups)]
    return x.dim() != 4 or min(widths) < _NARROW


def _by_group(function: Callable[[int, Tensor], Tensor], x: Tensor, groups: int) -> Tensor:
    """Apply a function of number and channels to each group of channels."""
    if x.dim() == 4:
        return torch.cat([function(i, part) for i, part in enumerate(x.chunk(groups, 1))], 1)
    # A matrix, because each layer of the graph would otherwise reshape its own input and output.
    parts = x.reshape(-1, x.shape[-1]).chunk(groups, -1)
    y = torch.cat([function(i, part) for i, part in enumerate(parts)], -1)
    return y.reshape(*x.shape[:-1], y.shape[-1])


def _check_divides(name: str, channels: int, groups: int) -> None:
    for what, number in ((name, channels), ('groups', groups)):
        check_count(what, number)
    if channels % groups:
        small = [d for d in range(1, min(channels, 4096) + 1) if channels % d == 0]
        divisors = sorted({*small, *(channels // d for d in small)})
        raise ValueError(f'{name}={channels} does not divide into groups={groups}; '
                         f'{channels} divides by {divisors}')


class BlockDiagonalLinear(nn.Module):
    """Linear layer over the channels with a block-diagonal weight matrix.

    Args:
        in_features: Input channels.
        out_features: Output channels. Both numbers must be divisible by ``groups``.
        groups: Number of blocks; 1 is a dense layer.
        bias: Add a learned bias, initially zero.
        init_std: Standard deviation of the initial weights of the *dense* layer. None stands
            for ``in_features ** -0.5``, with which outputs have the variance of the inputs and
            training goes better (``docs/evidence.md``); the authors use 0.02.
        match_variance: Multiply ``init_std`` by ``sqrt(groups)``. An output sees
            only ``in_features / groups`` inputs, so this gives it the variance with
            which the dense layer starts. False, with ``init_std=0.02``, is the
            initialisation of the authors' code.

    Raises:
        TypeError, ValueError: The channels cannot be divided by ``groups``, or an argument is
            not of the type or range above.
    """

    def __init__(self, in_features: int, out_features: int, groups: int = 1, *, bias: bool = True,
                 init_std: Optional[float] = None, match_variance: bool = True) -> None:
        super().__init__()
        _check_divides('in_features', in_features, groups)
        _check_divides('out_features', out_features, groups)
        check_flags(bias=bias, match_variance=match_variance)
        if init_std is None:
            init_std = in_features**-0.5
        check_number('init_std', init_std, 'a positive number or None', lambda n: 0 < n < math.inf)
        self.in_features = in_features
        self.out_features = out_features
        self.groups = groups
        self.init_std = init_std * math.sqrt(groups) if match_variance else init_std
        self.weight = nn.Parameter(torch.empty(out_features, in_features // groups))
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features))
        else:
            self.register_parameter('bias', None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights from a truncated normal of deviation ``init_std``; bias zero."""
        nn.init.trunc_normal_(self.weight, std=self.init_std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def check(self, x: Tensor) -> None:
        """Raise a ValueError for an input of another width."""
        channels = x.shape[1] if x.dim() == 4 else x.shape[-1] if x.dim() > 1 else 0
        empty = x.dim() == 4 and not exporting() and 0 in x.shape[2:]
        if channels != self.in_features or empty:
            raise ValueError(
                f'expected {self.in_features} channels in a map (B, C, H, W) or in tokens '
                f'(B, N, C), found an input of shape {tuple(x.shape)}')

    def forward(self, x: Tensor) -> Tensor:
        """See :func:`block_diagonal_linear`."""
        self.check(x)
        return block_diagonal_linear(x, self.weight, self.bias, self.groups)

    def extra_repr(self) -> str:
        return (f'in_features={self.in_features}, out_features={self.out_features}, '
                f'groups={self.groups}, bias={self.bias is not None}')


class BlockDiagonalMLP(nn.Module):
    """FFN of SCHEME: two block-diagonal layers with an activation between them.

    It costs ``hidden * C * (1 / g1 + 1 / g2)`` multiply-adds per token. The "44-e8" of
    arXiv 2312.00412 is ``groups=(4, 4)`` and ``hidden = 8 * C``.

    Args:
        embed_dims: Channels ``C`` of input and output.
        hidden_dims: Channels between the layers; ``8 * C`` by default.
        groups: Groups of the first and of the second layer, or one number for both.
        act_layer: Function or class that makes the activation.
        drop: Dropout after the activation and after the second layer.
        init_std, match_variance: See :class:`BlockDiagonalLinear`.
        implementation: ``'plain'``: one layer after the other. ``'batched'``: batched matrix
            products. ``'native'``: C++ on the CPU. ``'chunked'``: torch's operators on one chunk
            of tokens at a time. ``'triton'``: Triton kernels on a GPU. The last three keep no
            hidden values for the backward pass, which recomputes them and has no derivative
            itself. All but the first need the same groups in both layers, no dropout, and GELU,
            SiLU, ReLU or :class:`StarReLU`; otherwise they fall back to plain. ``'auto'``: see
            :mod:`mmscheme.ops.dispatch`.

    Raises:
        TypeError, ValueError: An argument is not as above; the message names it.
    """

    def __init__(self, embed_dims: int, hidden_dims: Union[int, None] = None,
                 groups: Union[int, Sequence[int]] = (4, 4), *,
                 act_layer: Callable[[], nn.Module] = nn.GELU, drop: float = 0.,
                 init_std: Optional[float] = None, match_variance: bool = True,
                 implementation: str = 'auto') -> None:
        super().__init__()
        check_choice('implementation', implementation, IMPLEMENTATIONS)
        if not callable(act_layer):
            raise TypeError('act_layer: expected a function that makes a module, found '
                            f'{act_layer!r}')
        check_number('drop', drop, 'a probability', lambda n: 0 <= n <= 1)
        check_count('embed_dims', embed_dims)
        self.implementation = implementation
        hidden_dims = 8 * embed_dims if hidden_dims is None else hidden_dims
        g1, g2 = parse_groups(groups)
        for name, channels in (('embed_dims', embed_dims), ('hidden_dims', hidden_dims)):
            for g in (g1, g2):
                _check_divides(name, channels, g)
        start: Dict[str, Any] = dict(init_std=init_std, match_variance=match_variance)
        self.fc1 = BlockDiagonalLinear(embed_dims, hidden_dims, g1, **start)
        self.act = act_layer()
        self.drop1 = nn.Dropout(drop)
        self.fc2 = BlockDiagonalLinear(hidden_dims, embed_dims, g2, **start)
        self.drop2 = nn.Dropout(drop)

    def _is_fusable(self, plain: Callable[[nn.Module, type], bool] = is_plain) -> bool:
        """Return True if nothing but the two layers and the activation acts on the input."""
        drops = (self.drop1, self.drop2)
        return (all(plain(drop, nn.Dropout) and not (drop.training and drop.p > 0)
                    for drop in drops)
                and all(plain(fc, BlockDiagonalLinear) for fc in (self.fc1, self.fc2))
                and plain(self.act, type(self.act)))

    def choose(self, x: Tensor) -> str:
        """Return the implementation for an input; see :mod:`mmscheme.ops.dispatch`."""
        return self._choose(x, self.arguments())

    def _choose(self, x: Tensor, parts: Dict[str, Any]) -> str:
        if not self._is_fusable():
            return 'plain'
        return choose_mlp(x, parts, self.fc2.groups, self.implementation, lambda: {
            'plain': self._layer_by_layer,
            **{name: partial(block_diagonal_mlp, **parts, implementation=name)
               for name in ('batched', 'triton')}})

    def arguments(self) -> Dict[str, Any]:
        """Return what the fused operators want beside the input."""
        return dict(w1=self.fc1.weight, b1=self.fc1.bias, w2=self.fc2.weight, b2=self.fc2.bias,
                    groups=self.fc1.groups, act=fused_name(self.act),
                    scale=getattr(self.act, 'scale', None), shift=getattr(self.act, 'bias', None))

    def _layer_by_layer(self, x: Tensor) -> Tensor:
        groups = self.fc1.groups
        if (exporting() and groups == self.fc2.groups > 1 and is_pointwise(self.act)
                and self._is_fusable(runs_own_forward)
                and _split_pays(x, groups, self.fc1.weight, self.fc2.weight)):
            # A group goes through both layers, so that the hidden map is never put together.
            first, second = ((fc.weight, fc.bias, groups) for fc in (self.fc1, self.fc2))
            return _by_group(
                lambda i, part: _block(i, self.act(_block(i, part, *first)), *second), x, groups)
        hidden = self.drop1(apply_activation(self.act, self.fc1(x)))
        return self.drop2(self.fc2(hidden))

    def forward(self, x: Tensor, gain: Union[Tensor, None] = None) -> Tensor:
        """Mix the channels of each position: ``fc2(act(fc1(x)))``.

        Args:
            x: A map ``(B, C, H, W)`` or tokens ``(B, N, C)`` / ``(N, C)``.
            gain: Factor of the output.

        Returns:
            The shape of ``x``.
        """
        self.fc1.check(x)
        parts = self.arguments()
        chosen = self._choose(x, parts)
        if chosen != 'plain':
            return block_diagonal_mlp(x, **parts, implementation=chosen, gain=gain)
        y = self._layer_by_layer(x)
        return y if gain is None else gain * y
