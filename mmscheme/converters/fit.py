"""Fit block-diagonal FFNs to trained dense ones, on images without labels.

All is least squares on sums over positions, so memory does not grow with the images: a mixer of
``C`` channels and ``H`` dense hidden ones takes ``2 * max_tokens * C`` floats for what it is given
and should return, and a few ``(H + C)^2`` matrices in double precision.
"""
import math
from collections import Counter
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from mmscheme.layers import BlockDiagonalMLP, SCHEMEMixer, block_diagonal_linear
from mmscheme.layers.activations import apply_activation

__all__ = ['LayerFit', 'Samples', 'check_pair', 'collect', 'count_positions', 'find_ffns',
           'fit_ffn', 'fit_mixers']

#: By batch, what a mixer's FFN was given in it, call by call: tokens ``(B, N, C)``, or parts of
#: maps ``(B, C, H, W)`` where the FFN looks at neighbours.
Samples = List[List[Tensor]]

# Strengths of the ridge that are tried, relative to the mean square of the features.
_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1., 10.)
# Those of the prediction of a unit's input, and of the choice of units.
_PREDICTION, _CHOICE = 1e-4, 1e-3
# Half of the units that are too many go in each round but the last, because what a unit adds
# depends on those that are left.
_ROUNDS = 4
# How far the convolutions between two layers reach.
_MARGIN = 3
_HELD_OUT = 0.15


class LayerFit(NamedTuple):
    """The share of a dense FFN's output that its block-diagonal successor keeps.

    Attributes:
        name: Name of the FFN's mixer.
        projected: Share of the output's variance that is explained on images the fit has
            not seen, when the blocks are cut out of the dense weights.
        fitted: The same after the fit.
    """
    name: str
    projected: float
    fitted: float


class _Reached(Exception):
    """Ends a forward pass that need not go on."""


def find_ffns(model: nn.Module) -> Dict[str, BlockDiagonalMLP]:
    """Return the FFNs of a model's SCHEME mixers by the names of these."""
    return {name: m.ffn for name, m in model.named_modules() if isinstance(m, SCHEMEMixer)}


def fit_mixers(student: nn.Module, dense: nn.Module, run: Callable[[nn.Module, Any], Any],
               batches: Sequence[Any], *, max_tokens: int = 24576, seed: int = 0,
               progress: Callable[[LayerFit], None] = lambda fit: None) -> List[LayerFit]:
    """Fit the FFNs of a block-diagonal model to those of a dense one, in the order of their use.

    Each is fitted on what reaches it in the new model, on the inputs of those before it that have
    been fitted: each hidden unit is given the linear predictor of its dense input from the
    channels of its block; the units that the output needs most are kept; least squares finds
    their output weights. Where the new FFN can hold the dense one, it becomes it.

    Args:
        student: Its FFNs are filled; CCA, where it has it, is retired. All else is taken as it is.
        dense: Has an FFN of one block in both layers under each name, as
            :func:`mmscheme.models.SCHEMEWrapper` makes it with ``groups=1``.
        run: Runs a model on a batch.
        batches: At least 4. The last 15 % are for the report, another 15 % choose the ridge.
        max_tokens: Positions drawn for an FFN.
        seed: Seed of all random numbers.
        progress: Called after each FFN.

    Returns:
        The report, an entry an FFN.

    Raises:
        ValueError: The models do not belong together, there are too few batches, or the images
            do not reach an FFN.
    """
    targets = find_ffns(student)
    sources = check_pair(student, dense)
    generator = torch.Generator().manual_seed(seed)
    report = []
    student.eval()
    for name in count_positions(student, targets, run, batches):
        samples = collect(student, {name: targets[name]}, sources, run, batches,
                          max_tokens=max_tokens, generator=generator)[name]
        report.append(LayerFit(name, *fit_ffn(targets[name], sources[name], samples)))
        progress(report[-1])
    return report


def check_pair(student: nn.Module, dense: nn.Module) -> Dict[str, BlockDiagonalMLP]:
    """Return the FFNs of a dense model by name, and retire the student's guides.

    Raises:
        ValueError: A mixer of the student has no FFN of one block, without CCA, in the dense one.
    """
    mixers = {name: m for name, m in dense.named_modules() if isinstance(m, SCHEMEMixer)}
    for name, m in student.named_modules():
        if not isinstance(m, SCHEMEMixer):
            continue
        old = mixers.get(name)
        if (old is None or old.guide is not None
                or (old.ffn.fc1.groups, old.ffn.fc2.groups) != (1, 1)):
            raise ValueError(f'{name}: expected a dense FFN without CCA to convert')
        if m.interleaved > 1:
            raise ValueError(f'{name}: expected interleave=False in the model to fit')
        if m.guide is not None:
            m.retire_cca()
    return find_ffns(dense)


def count_positions(model: nn.Module, ffns: Dict[str, BlockDiagonalMLP],
                    run: Callable[[nn.Module, Any], Any], batches: Sequence[Any]
                    ) -> Dict[str, int]:
    """Return how many positions of the first batch each FFN is given, in the order of their use.

    Raises:
        ValueError: There are fewer than 4 batches, or it does not reach an FFN.
    """
    if len(batches) < 4:
        raise ValueError(f'expected images in at least 4 batches to fit on, found {len(batches)}')
    names = {ffn: name for name, ffn in ffns.items()}
    used: Counter = Counter()

    def count(ffn: nn.Module, args: Tuple[Tensor, ...]) -> None:
        used[names[ffn]] += args[0].numel() // ffn.fc1.in_features

    _run(model, run, batches[0], [ffn.register_forward_pre_hook(count) for ffn in ffns.values()])
    missing = [name for name in ffns if name not in used]
    if missing:
        raise ValueError(f'{missing[0]}: the images do not reach this channel mixer')
    return used


@torch.no_grad()
def _run(model: nn.Module, run: Callable[[nn.Module, Any], Any], batch: Any,
         handles: Sequence[Any]) -> None:
    try:
        run(model, batch)
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()


def collect(model: nn.Module, ffns: Dict[str, BlockDiagonalMLP],
            dense: Dict[str, BlockDiagonalMLP], run: Callable[[nn.Module, Any], Any],
            batches: Sequence[Any], *, max_tokens: int, generator: torch.Generator
            ) -> Dict[str, Samples]:
    """Draw the inputs of some FFNs of a model.

    Args:
        model: In evaluation mode.
        ffns: Its FFNs to watch.
        dense: By the same names, the FFNs that tell whether positions can stand alone.
        run: Runs a model on a batch; it is stopped after the last FFN.
        batches: The images.
        max_tokens: Positions to draw for each, about.
        generator: Generator of the random positions.
    """
    samples: Dict[str, Samples] = {name: [] for name in ffns}
    alone: Dict[str, bool] = {}
    calls: Counter = Counter()
    for index, batch in enumerate(batches):
        seen: Counter = Counter()

        def watch(name: str, seen: Counter = seen, index: int = index) -> Callable[..., None]:

            def hook(module: nn.Module, args: Tuple[Tensor, ...]) -> None:
                x = args[0].detach()
                if name not in alone:
                    alone[name] = _is_by_position(dense[name], x)
                # The first axis has the images of a batch, or windows of them.
                count = max_tokens / len(batches) / len(x) / max(1, calls[name])
                samples[name][-1].append(_draw(x, math.ceil(count), alone[name], generator))
                seen[name] += 1
                if index and all(seen[n] >= calls[n] for n in ffns):
                    raise _Reached

            return hook

        for name in ffns:
            samples[name].append([])
        _run(model, run, batch, [ffn.register_forward_pre_hook(watch(name))
                                 for name, ffn in ffns.items()])
        if not index:
            calls.update(seen)
    return samples


def _is_by_position(ffn: BlockDiagonalMLP, x: Tensor) -> bool:
    """Return True if the hidden values of a position depend on no other."""
    tokens = x[:1].flatten(2).mT if x.dim() == 4 else x[:1]
    some = tokens[:, ::2]
    try:
        alone = _hidden(ffn, some)
    except Exception:  # whatever a module raises that wants a map
        return False
    among = apply_activation(ffn.act, ffn.fc1(x[:1]))
    among = (among.flatten(2).mT if x.dim() == 4 else among)[:, ::2].flatten(0, 1)
    return alone.shape == among.shape and bool(
        (alone - among).abs().max() <= 1e-4 * among.abs().max() + 1e-6)


def _draw(x: Tensor, count: int, alone: bool, generator: torch.Generator) -> Tensor:
    """Draw about ``count`` positions of each sample: tokens, or a part of a map."""
    if x.dim() == 4 and not alone:
        side = math.ceil(count ** 0.5) + 2 * _MARGIN
        top, left = (int(torch.randint(max(1, size - side + 1), (), generator=generator))
                     for size in x.shape[2:])
        return x[..., top:top + side, left:left + side].clone()
    tokens = x.flatten(2).mT if x.dim() == 4 else x
    chosen = torch.rand(tokens.shape[:2], generator=generator).argsort(1)[:, :count]
    return tokens.gather(1, chosen[..., None].expand(-1, -1, tokens.shape[2]).to(x.device))


def _rows(values: Tensor) -> Tensor:
    """Return the values of positions, ``(N, C)``; of a map, those whose neighbours are in it."""
    if values.dim() < 4:
        return values.flatten(0, -2)
    if min(values.shape[2:]) > 2 * _MARGIN:
        values = values[..., _MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    return values.permute(0, 2, 3, 1).flatten(0, 2)


def _hidden(ffn: BlockDiagonalMLP, x: Tensor, first: Optional['_Layer'] = None) -> Tensor:
    """Return what the second layer of an FFN is given, with another first layer if one is named."""
    before = ffn.fc1(x) if first is None else block_diagonal_linear(x, *first)
    return _rows(apply_activation(ffn.act, before))


class _Layer(NamedTuple):
    weight: Tensor
    bias: Optional[Tensor]


class _Cell(NamedTuple):
    """Hidden units that read one group of channels and feed another.

    Attributes:
        a, b: The groups.
        start: The first unit.
        size: How many units there are.
    """
    a: int
    b: int
    start: int
    size: int


def _cells(new: BlockDiagonalMLP) -> List[_Cell]:
    hidden, g1, g2 = new.fc2.in_features, new.fc1.groups, new.fc2.groups
    units = torch.arange(hidden)
    both = units * g1 // hidden * g2 + units * g2 // hidden
    cells = []
    for code in both.unique().tolist():
        where = (both == code).nonzero().flatten()
        cells.append(_Cell(code // g2, code % g2, int(where[0]), len(where)))
    return cells


def _first_rows(ffn: BlockDiagonalMLP, units: Tensor, group: int) -> Tensor:
    """Return the rows of the first layer that make some units of one of its groups.

    A gated FFN has two for each: the gates of a group come before its values.
    """
    hidden = ffn.fc2.in_features
    copies, width = ffn.fc1.out_features // hidden, hidden // ffn.fc1.groups
    return torch.cat([units + (group * (copies - 1) + i) * width for i in range(copies)])


def _slice(x: Tensor, group: int, groups: int) -> Tensor:
    """Return one of some equal slices of the channels."""
    return x.chunk(groups, 1 if x.dim() == 4 else -1)[group]


class _Moments:
    """Mean and covariance of features and targets, summed up in double precision."""

    def __init__(self) -> None:
        self.count = 0
        self.centre = self.total = self.square = torch.zeros(())

    def add(self, *columns: Tensor) -> '_Moments':
        """Add rows ``(N, .)``; the columns are put side by side."""
        values = torch.cat(columns, 1)
        if not self.count:
            self.centre = values.mean(0)  # because large means would cost digits
        values = values - self.centre
        self.count += len(values)
        self.total = self.total + values.sum(0).double()
        self.square = self.square + (values.T @ values).double()
        return self

    def mean(self) -> Tensor:
        """Return the mean of each column."""
        return self.centre + self.total / self.count

    def second(self, centred: bool) -> Tensor:
        """Return the covariance, or the mean products of what is not centred."""
        shift = self.total / self.count
        product = self.square / self.count - shift.outer(shift)
        return product if centred else product + self.mean().outer(self.mean())


def _with_ridge(gram: Tensor, ridge: float) -> Tensor:
    gram = gram.clone()
    gram.diagonal().add_(ridge * float(gram.diagonal().mean()) + 1e-12)
    return gram


class _Task(NamedTuple):
    """Samples of a fit and the outputs that are wanted, parted by images."""
    train: List[Tuple[Tensor, Tensor]]
    check: List[Tuple[Tensor, Tensor]]
    report: List[Tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, dense: BlockDiagonalMLP, samples: Samples) -> '_Task':
        held = max(1, round(_HELD_OUT * len(samples)))
        parts = samples[:-2 * held], samples[-2 * held:-held], samples[-held:]
        return cls(*([(x, dense.fc2(_hidden(dense, x))) for batch in part for x in batch]
                     for part in parts))


@torch.no_grad()
def fit_ffn(new: BlockDiagonalMLP, dense: BlockDiagonalMLP, samples: Samples
            ) -> Tuple[float, float]:
    """Fit one FFN; see :func:`fit_mixers`.

    Returns:
        The shares of the dense one's output that are kept on the last samples, with the blocks
        cut out of the dense weights and after the fit.
    """
    task = _Task.of(dense, samples)
    for layer in (new.fc1, new.fc2):
        layer.reset_parameters()
    new.drop2.load_state_dict(dense.drop2.state_dict())     # a norm behind the second layer
    slices = [dense.fc1.weight.chunk(new.fc1.groups, 1)[a] for a in range(new.fc1.groups)]
    cut = {cell: _largest(dense, slices[cell.a], cell, new) for cell in _cells(new)}
    _fill(new, dense, [_Layer(w, dense.fc1.bias) for w in slices], cut)
    new.fc2.weight.copy_(torch.cat([_outputs(new, dense, cut, b, 1)
                                    for b in range(new.fc2.groups)]))
    if new.fc2.bias is not None:
        new.fc2.bias.copy_(dense.fc2.bias)
    projected = _kept(new, task.report)
    first = _predictors(dense, new.fc1.groups, task.train)
    chosen = {}
    for b in range(new.fc2.groups):
        chosen.update(_choose(new, dense, first, b, task.train))
    new.fc1.reset_parameters()
    _fill(new, dense, first, chosen)
    _solve_outputs(new, dense, chosen, task)
    return projected, _kept(new, task.report)


def _kept(ffn: BlockDiagonalMLP, samples: Sequence[Tuple[Tensor, Tensor]]) -> float:
    """Return the explained share of the variance of the targets."""
    wanted = torch.cat([y for _, y in samples])
    left = sum(float((ffn.fc2(_hidden(ffn, x)) - y).square().sum()) for x, y in samples)
    return 1 - left / max(float((wanted - wanted.mean(0)).square().sum()), 1e-20)


def _largest(dense: BlockDiagonalMLP, weight: Tensor, cell: _Cell, new: BlockDiagonalMLP
             ) -> Tensor:
    """Return the units whose weights in a block are largest."""
    units = torch.arange(dense.fc2.in_features)
    inward = weight.norm(dim=1)[_first_rows(dense, units, 0)].unflatten(0, (-1, len(units)))
    outward = dense.fc2.weight.chunk(new.fc2.groups)[cell.b].norm(dim=0)
    return (inward.prod(0) * outward).argsort(descending=True)[:cell.size]


def _fill(new: BlockDiagonalMLP, dense: BlockDiagonalMLP, first: Sequence[_Layer],
          chosen: Dict[_Cell, Tensor]) -> None:
    """Write first layers and what stands between; units without one stay as drawn."""
    hidden, stock = new.fc2.in_features, dense.fc2.in_features
    between, source = new.act.state_dict(), dense.act.state_dict()
    for cell, units in chosen.items():
        where = torch.arange(cell.start, cell.start + len(units))
        rows, old = _first_rows(new, where, cell.a), _first_rows(dense, units, 0)
        new.fc1.weight[rows] = first[cell.a].weight[old]
        bias = first[cell.a].bias
        if bias is not None:
            new.fc1.bias[rows] = bias[old]
        for key, value in between.items():
            if value.shape[:1] == (hidden, ) and source[key].shape[:1] == (stock, ):
                value[where] = source[key][units]
            else:  # one for all units
                value.copy_(source[key])


def _outputs(new: BlockDiagonalMLP, dense: BlockDiagonalMLP, chosen: Dict[_Cell, Tensor], b: int,
             share: float) -> Tensor:
    """Return the dense output weights of the units that feed a group; 0 where there is none."""
    weight = dense.fc2.weight.chunk(new.fc2.groups)[b]
    parts = []
    for cell, units in chosen.items():
        if cell.b == b:
            parts.append(nn.functional.pad(share * weight[:, units], (0, cell.size - len(units))))
    return torch.cat(parts, 1)


def _predictors(dense: BlockDiagonalMLP, groups: int, samples: Sequence[Tuple[Tensor, Tensor]]
                ) -> List[_Layer]:
    """Return the best linear guess of the dense first layer's output from each group's channels."""
    moments = _Moments()
    for x, _ in samples:
        moments.add(_rows(x))
    weight, bias = dense.fc1.weight, dense.fc1.bias
    second, mean = moments.second(bias is not None), moments.mean()
    layers = []
    for a in range(groups):
        own = torch.arange(len(mean), device=mean.device).chunk(groups)[a]
        rest = torch.ones_like(mean, dtype=torch.bool).index_fill(0, own, False)
        beyond = weight[:, rest].double()
        step = torch.linalg.solve(_with_ridge(second[own][:, own], _PREDICTION),
                                  second[own][:, rest] @ beyond.T).T
        moved = None if bias is None else (bias + beyond @ mean[rest] - step @ mean[own]).to(bias)
        layers.append(_Layer((weight[:, own] + step).to(weight), moved))
    return layers


def _choose(new: BlockDiagonalMLP, dense: BlockDiagonalMLP, first: Sequence[_Layer], b: int,
            samples: Sequence[Tuple[Tensor, Tensor]]) -> Dict[_Cell, Tensor]:
    """Choose the dense units that make one group of the output best, for each cell that feeds it.

    The unit goes first whose loss costs least when the others take its place.
    """
    cells, hidden = [c for c in _cells(new) if c.b == b], dense.fc2.in_features
    if all(cell.size >= hidden for cell in cells):
        return {cell: torch.arange(hidden) for cell in cells}
    bias = dense.fc2.bias
    prior = (dense.fc2.weight.chunk(new.fc2.groups)[b] / len(cells)).repeat(1, len(cells))
    moments = _Moments()
    for x, y in samples:
        features = torch.cat([_hidden(dense, _slice(x, c.a, new.fc1.groups), first[c.a])
                              for c in cells], 1)
        moments.add(features, _slice(y, b, new.fc2.groups))
    second, count = moments.second(bias is not None), len(cells) * hidden
    gram, cross, prior = second[:count, :count], second[:count, count:], prior.double()
    left = torch.ones(count, dtype=torch.bool, device=gram.device)
    for round_ in range(_ROUNDS):
        units = left.nonzero().flatten()
        inner = gram[units][:, units]
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(_with_ridge(inner, _CHOICE)))
        start = prior[:, units]
        weight = start + (inverse @ (cross[units] - inner @ start.T)).T
        cost = torch.full_like(gram[0], math.inf)
        cost[units] = weight.square().sum(0) / inverse.diagonal()
        for i, cell in enumerate(cells):
            own = slice(i * hidden, (i + 1) * hidden)
            excess = int(left[own].sum()) - cell.size
            gone = excess if round_ == _ROUNDS - 1 else (excess + 1) // 2
            if gone > 0:
                left[own][cost[own].argsort()[:gone]] = False
    return {cell: left[i * hidden:(i + 1) * hidden].nonzero().flatten()
            for i, cell in enumerate(cells)}


def _solve_outputs(new: BlockDiagonalMLP, dense: BlockDiagonalMLP, chosen: Dict[_Cell, Tensor],
                   task: _Task) -> None:
    """Find the output weights by ridge regression towards the dense ones."""
    groups, bias = new.fc2.groups, new.fc2.bias
    feeding = [sum(cell.b == b for cell in chosen) for b in range(groups)]
    priors = [_outputs(new, dense, chosen, b, 1 / feeding[b]) for b in range(groups)]
    offsets = [0.] * groups if bias is None else dense.fc2.bias.chunk(groups)
    moments = [[_Moments() for _ in range(groups)] for _ in range(2)]
    for part, sums in zip((task.train, task.check), moments):
        for x, y in part:
            hidden = _hidden(new, x)
            for b, (prior, offset) in enumerate(zip(priors, offsets)):
                features = _slice(hidden, b, groups)
                # What is left to explain, so that nothing changes where there is nothing.
                sums[b].add(features, _slice(y, b, groups) - features @ prior.T - offset)
    for b, (train, check) in enumerate(zip(*moments)):
        count = priors[b].shape[1]
        second, mean = train.second(bias is not None), train.mean()
        other, away = check.second(True), check.mean()
        best = math.inf
        for ridge in _RIDGES:
            step = torch.linalg.solve(_with_ridge(second[:count, :count], ridge),
                                      second[:count, count:]).T
            leave = torch.cat([-step, torch.eye(len(step)).to(step)], 1)
            shift = leave @ mean if bias is not None else torch.zeros_like(mean[count:])
            error = float(((leave @ other) * leave).sum()
                          + (leave @ away - shift).square().sum())
            if error < best:
                best = error
                new.fc2.weight.chunk(groups)[b].copy_(priors[b] + step)
                if bias is not None:
                    bias.chunk(groups)[b].copy_(offsets[b] + shift)
