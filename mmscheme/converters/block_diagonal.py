"""From a trained dense backbone to a block-diagonal one, as a warm start."""
import copy
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmscheme.layers import BlockDiagonalMLP
from mmscheme.models import SCHEMEformer
from mmscheme.utils.checkpoint_io import compare_state_dicts

from .channel_order import LinearStatistics, cluster_channels, permute_stage

__all__ = ['PERMUTATIONS', 'LayerFit', 'convert_backbone']

PERMUTATIONS = ('cluster', 'none', 'random')

# Strengths of the ridge that are tried, relative to the mean square of the features.
_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1., 10.)


class LayerFit(NamedTuple):
    """The share of a dense FFN's output that its block-diagonal successor keeps.

    Attributes:
        name: Name of the FFN in the backbone.
        projected: Share of the output's variance that is explained on images the fit has
            not seen, when the blocks are cut out of the dense weights.
        fitted: The same after the fit.
    """
    name: str
    projected: float
    fitted: float


class _Tokens(NamedTuple):
    """Inputs of an FFN and what the dense one makes of them, each ``(N, C)``."""
    x: Tensor
    y: Tensor


def convert_backbone(dense: SCHEMEformer, student: SCHEMEformer, images: Sequence[Tensor],
                     permutation: str = 'cluster', movable: Sequence[int] = (0, 1, 2, 3),
                     max_tokens: int = 24576, seed: int = 0,
                     progress: Callable[[LayerFit], None] = lambda fit: None
                     ) -> Tuple[List[LayerFit], Dict[int, Tensor]]:
    """Fill a block-diagonal backbone with what a trained dense one has learned.

    1. The channels of each stage are ordered so that those that work together in its FFNs
       share a block. That changes no output of the dense backbone.
    2. All but the FFNs is copied.
    3. FFN by FFN, on the maps that reach it in the new backbone: each hidden unit is given
       the linear predictor of its dense input from the channels of its block; the units
       that explain most of the block's output are kept; least squares finds their output
       weights.

    Args:
        dense: The trained backbone, ``groups=(1, 1)`` and without CCA; not changed.
        student: Of the same architecture with other ``groups`` and ``expansion``; filled.
            CCA, if it has it, is retired (its factor is 0).
        images: Batches ``(B, 3, H, W)`` as the backbone gets them. The last 15 % are kept
            to choose the ridge and another 15 % for the report.
        permutation: ``'cluster'``, ``'none'`` or ``'random'``; the last two to compare.
        movable: Stages whose channels may be ordered: whoever reads the output of a stage
            must be told its new order.
        max_tokens: Positions drawn for an FFN.
        seed: Seed of the random numbers.
        progress: Called after each FFN.

    Returns:
        The report, an entry an FFN, and the order of each stage's channels.

    Raises:
        ValueError: The backbones do not fit each other, or a setting is none of these.
    """
    if permutation not in PERMUTATIONS:
        raise ValueError(f'permutation: expected one of {PERMUTATIONS}, found {permutation!r}')
    _check_pair(dense, student)
    if sum(len(batch) for batch in images) < 8:
        raise ValueError('expected at least 8 images to fit on')
    generator = torch.Generator().manual_seed(seed)
    dense = copy.deepcopy(dense).eval()
    student.eval()
    orders = _choose_orders(dense, student, images, permutation, movable, max_tokens, generator)
    for stage, order in orders.items():
        permute_stage(dense, stage, order)
    own = student.state_dict()
    own.update({k: v for k, v in dense.state_dict().items() if 'channel_mixer' not in k})
    student.load_state_dict(own)
    for block in _blocks(student).values():
        if block.channel_mixer.guide is not None:
            block.channel_mixer.retire_cca()
    report = []
    for name, block in _blocks(student).items():
        ffn = _blocks(dense)[name].channel_mixer.ffn
        tokens = _collect(student, {name: ffn}, images, max_tokens, generator)[name]
        fit = _fit_ffn(name, block.channel_mixer.ffn, ffn, tokens, sum(map(len, images)))
        progress(fit)
        report.append(fit)
    return report, orders


def _check_pair(dense: SCHEMEformer, student: SCHEMEformer) -> None:
    """Check that the two differ in their FFNs alone, and that the one to convert is dense."""
    own, other = ({k: v for k, v in b.state_dict().items() if 'channel_mixer' not in k}
                  for b in (student, dense))
    problems = compare_state_dicts(own, other).problems()
    if problems:
        raise ValueError('expected two backbones that differ only in their FFNs, found in the '
                         f'dense one: {"; ".join(problems)}')
    for name, block in _blocks(student).items():
        if block.channel_mixer.interleaved > 1:
            raise ValueError(f'{name}: expected interleave=False in the model to fit')
    for name, block in _blocks(dense).items():
        mixer = block.channel_mixer
        if mixer.guide is not None or (mixer.ffn.fc1.groups, mixer.ffn.fc2.groups) != (1, 1):
            raise ValueError(f'{name}: expected a dense FFN without CCA to convert')


def _blocks(backbone: SCHEMEformer) -> Dict[str, nn.Module]:
    return {f'stages.{i}.{j}': block for i, stage in enumerate(backbone.stages)
            for j, block in enumerate(stage)}


@torch.no_grad()
def _collect(backbone: SCHEMEformer, targets: Dict[str, BlockDiagonalMLP],
             images: Sequence[Tensor], max_tokens: int, generator: torch.Generator
             ) -> Dict[str, _Tokens]:
    """Collect the inputs of the named blocks' FFNs, in the order of the images, and targets."""
    total = sum(len(batch) for batch in images)
    seen: Dict[str, List[Tensor]] = {name: [] for name in targets}

    def watch(name: str) -> Callable[..., None]:

        def hook(module: nn.Module, args: Tuple[Tensor, ...]) -> None:
            tokens = args[0].flatten(2).transpose(1, 2)     # (B, N, C)
            count = max(1, min(tokens.shape[1], max_tokens // total))
            chosen = torch.rand(tokens.shape[:2], generator=generator).argsort(1)[:, :count]
            seen[name].append(tokens.gather(1, chosen[..., None].expand(-1, -1, tokens.shape[2])
                                            .to(tokens.device)).flatten(0, 1))

        return hook

    handles = [_blocks(backbone)[name].channel_mixer.register_forward_pre_hook(watch(name))
               for name in targets]
    try:
        for batch in images:
            backbone(batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: _Tokens(x := torch.cat(seen[name]), targets[name](x)) for name in targets}


def _choose_orders(dense: SCHEMEformer, student: SCHEMEformer, images: Sequence[Tensor],
                   permutation: str, movable: Sequence[int], max_tokens: int,
                   generator: torch.Generator) -> Dict[int, Tensor]:
    """Choose the order of the channels of each stage that is to change."""
    orders: Dict[int, Tensor] = {}
    if permutation == 'none':
        return orders
    targets = {name: block.channel_mixer.ffn for name, block in _blocks(dense).items()}
    tokens = _collect(dense, targets, images, max_tokens, generator) \
        if permutation == 'cluster' else {}
    for stage in movable:
        ffn = student.stages[stage][0].channel_mixer.ffn
        # With one group in a layer every channel reaches every channel, in any order.
        groups = min(ffn.fc1.groups, ffn.fc2.groups)
        channels = ffn.fc1.in_features
        if permutation == 'random':
            orders[stage] = torch.randperm(channels, generator=generator)
        elif groups > 1:
            orders[stage] = cluster_channels(
                [LinearStatistics.of(*t) for name, t in tokens.items()
                 if name.startswith(f'stages.{stage}.')], groups, generator=generator)
    return orders


def _fit_ffn(name: str, new: BlockDiagonalMLP, dense: BlockDiagonalMLP, tokens: _Tokens,
             images: int) -> LayerFit:
    """Fit one FFN; see :func:`convert_backbone`. Tokens are in the order of the images."""
    # At images, each with as many tokens: none is on both sides of a cut.
    cuts = [int(share * images) * (len(tokens.x) // images) for share in (0, 0.7, 0.85, 1)]
    train, check, report = (_Tokens(tokens.x[a:b], tokens.y[a:b])
                            for a, b in zip(cuts, cuts[1:]))
    _cut_out(new, dense)
    projected = _kept(new, report)
    _least_squares(new, dense, train, check)
    return LayerFit(name, projected, _kept(new, report))


@torch.no_grad()
def _kept(ffn: BlockDiagonalMLP, tokens: _Tokens) -> float:
    """Return the explained share of the variance of the targets."""
    left = (ffn(tokens.x) - tokens.y).square().sum()
    return 1 - float(left / (tokens.y - tokens.y.mean(0)).square().sum().clamp_min(1e-20))


def _cells(new: BlockDiagonalMLP) -> List[Tuple[int, int, slice]]:
    """Return the runs of hidden units that read one group ``a`` and feed one group ``b``."""
    hidden = new.fc1.out_features
    reads = torch.arange(hidden) * new.fc1.groups // hidden
    feeds = torch.arange(hidden) * new.fc2.groups // hidden
    both = reads * new.fc2.groups + feeds
    cells = []
    for code in both.unique().tolist():
        where = (both == code).nonzero().flatten()
        cells.append((code // new.fc2.groups, code % new.fc2.groups,
                      slice(int(where[0]), int(where[-1]) + 1)))
    return cells


def _group(values: Tensor, index: int, groups: int, dim: int = -1) -> Tensor:
    """Return one of some equal slices along a dimension."""
    return values.chunk(groups, dim)[index]


@torch.no_grad()
def _cut_out(new: BlockDiagonalMLP, dense: BlockDiagonalMLP) -> None:
    """Copy the blocks of the dense weights: the units that weigh most for each block."""
    hidden = new.fc1.out_features
    new.act.load_state_dict(dense.act.state_dict())     # some have parameters
    new.fc1.reset_parameters()
    new.fc2.weight.zero_()
    new.fc2.bias.copy_(dense.fc2.bias)
    for a, b, cell in _cells(new):
        w1 = _group(dense.fc1.weight, a, new.fc1.groups)
        w2 = _group(dense.fc2.weight, b, new.fc2.groups, 0)
        units = (w1.norm(dim=1) * w2.norm(dim=0)).argsort(descending=True)[:cell.stop - cell.start]
        inside = slice(cell.start, cell.start + len(units))
        new.fc1.weight[inside] = w1[units]
        new.fc1.bias[inside] = dense.fc1.bias[units]
        first = b * hidden // new.fc2.groups
        _group(new.fc2.weight, b, new.fc2.groups, 0)[
            :, inside.start - first:inside.stop - first] = w2[:, units]


def _solve(features: Tensor, targets: Tensor, ridge: float, prior: Optional[Tensor] = None
           ) -> Tuple[Tensor, Tensor]:
    """Solve ``targets ~ features @ w.T + b`` by ridge regression towards ``prior``."""
    mean_f, mean_t = features.mean(0), targets.mean(0)
    f, t = features - mean_f, targets - mean_t
    start = torch.zeros(t.shape[1], f.shape[1]) if prior is None else prior
    gram = (f.T @ f).double()
    gram.diagonal().add_(ridge * float(gram.diagonal().mean()) + 1e-12)
    right = (f.T @ (t - f @ start.T)).double()
    weight = start + torch.linalg.solve(gram, right).T.to(start.dtype)
    return weight, mean_t - weight @ mean_f


class _Units(NamedTuple):
    """Hidden units of a cell: input weights, biases, and the dense layer's output weights."""
    a: int
    cell: slice
    weight: Tensor
    bias: Tensor
    out: Tensor


@torch.no_grad()
def _least_squares(new: BlockDiagonalMLP, dense: BlockDiagonalMLP, train: _Tokens,
                   check: _Tokens) -> None:
    """Predict input weights, choose units by their part in the output, fit output weights."""
    g1, g2 = new.fc1.groups, new.fc2.groups

    def hidden(x: Tensor, parts: Sequence[_Units]) -> Tensor:
        return torch.cat([new.act(F.linear(_group(x, p.a, g1), p.weight, p.bias))
                          for p in parts], 1)

    # The best guess of each dense unit's input from each group's channels.
    guesses = [_solve(_group(train.x, a, g1), dense.fc1(train.x), 1e-4) for a in range(g1)]
    for b in range(g2):
        cells = [(a, cell) for a, fed, cell in _cells(new) if fed == b]
        out = _group(dense.fc2.weight, b, g2, 0) / len(cells)
        target = _group(train.y, b, g2)
        units = [_Units(a, cell, *guesses[a], out) for a, cell in cells]
        everything = hidden(train.x, units)
        weight, _ = _solve(everything, target, 1e-2, torch.cat([u.out for u in units], 1))
        part = weight.square().sum(0) * everything.var(0)
        units = [_choose(u, p, new.fc1.weight)
                 for u, p in zip(units, part.split([len(u.weight) for u in units]))]
        prior = torch.cat([u.out for u in units], 1)
        inputs, checked = hidden(train.x, units), hidden(check.x, units)
        fits = [_solve(inputs, target, ridge, prior) for ridge in _RIDGES]
        errors = [float((F.linear(checked, *fit) - _group(check.y, b, g2)).square().mean())
                  for fit in fits]
        weight, bias = fits[errors.index(min(errors))]
        for u in units:
            new.fc1.weight[u.cell], new.fc1.bias[u.cell] = u.weight, u.bias
        _group(new.fc2.weight, b, g2, 0).copy_(weight)
        _group(new.fc2.bias, b, g2).copy_(bias)


def _choose(units: _Units, part: Tensor, drawn: Tensor) -> _Units:
    """Choose as many units as the cell has; where it has more, the rest stay as drawn."""
    slots = units.cell.stop - units.cell.start
    best = part.argsort(descending=True)[:slots]
    rest = drawn[units.cell][len(best):]
    return _Units(units.a, units.cell, torch.cat([units.weight[best], rest]),
                  F.pad(units.bias[best], (0, len(rest))),
                  F.pad(units.out[:, best], (0, len(rest))))
