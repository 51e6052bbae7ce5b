"""The order of the channels of a stage, which a residual network is free to choose."""
from typing import List, NamedTuple, Optional, Sequence, Set, Tuple

import torch
from torch import Tensor

from mmscheme.layers import SelfAttention
from mmscheme.models import SCHEMEformer
from mmscheme.models.backbones.schemeformer import POS_EMBED_STAGE

__all__ = ['LinearStatistics', 'cluster_channels', 'permute_stage']

# Exchanges tried by their exact gain before the search ends.
_CANDIDATES = 32


def permute_stage(backbone: SCHEMEformer, stage: int, order: Tensor) -> None:
    """Reorder the channels of a stage's residual stream, in place.

    Channel ``c`` becomes what channel ``order[c]`` was, in every layer that writes to the
    stream or reads from it, so the backbone computes the same function. Only the channels
    of the stage's own output, if it has one, come out in the new order.

    Args:
        backbone: A backbone whose FFNs are dense in this stage.
        stage: Number of the stage.
        order: A permutation of the stage's channels.

    Raises:
        ValueError: ``order`` is no such permutation, an FFN is block-diagonal, whose
            channels cannot leave their block, or a norm has several groups.
    """
    blocks = backbone.stages[stage]
    channels = len(blocks[0].layer_scale1)
    if not torch.equal(order.sort().values, torch.arange(channels)):
        raise ValueError(f'order: expected a permutation of {channels} channels')
    writers = [backbone.downsamples[stage]]
    readers = list(backbone.downsamples[stage + 1:stage + 2])
    scales = [norm for name, norm in backbone.named_children() if name == f'norm{stage}']
    for block in blocks:
        ffn = block.channel_mixer.ffn
        if (ffn.fc1.groups, ffn.fc2.groups) != (1, 1):
            raise ValueError(f'stage {stage}: expected dense FFNs, found groups='
                             f'{(ffn.fc1.groups, ffn.fc2.groups)}')
        scales += [block.norm1, block.norm2]
        readers.append(ffn.fc1)
        writers.append(ffn.fc2)
        if isinstance(block.token_mixer, SelfAttention):
            readers.append(block.token_mixer.qkv)
            writers.append(block.token_mixer.proj)
    if any(getattr(norm, 'num_groups', 1) != 1 for norm in scales):
        raise ValueError(f'stage {stage}: its norms have groups of channels, whose statistics '
                         'depend on the order of the channels')
    with torch.no_grad():
        for module in writers + scales:
            for value in module.state_dict().values():
                if value.dim():  # not the counter of a batch norm
                    value.copy_(value[order])
        for module in readers:
            module.weight.copy_(module.weight[:, order])
        for block in blocks:
            for scale in (block.layer_scale1, block.layer_scale2):
                scale.copy_(scale[order])
        if stage == POS_EMBED_STAGE and backbone.pos_embed is not None:
            backbone.pos_embed.copy_(backbone.pos_embed[:, order])


class LinearStatistics(NamedTuple):
    """Second moments of the inputs and outputs of a dense FFN, each ``(C, C)``.

    Attributes:
        xx: Covariance of the inputs.
        yx: Covariance of outputs (rows) and inputs, in units in which the variance of all
            outputs together is 1.
    """
    xx: Tensor
    yx: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> 'LinearStatistics':
        """Compute them from tokens ``(N, C)``."""
        x, y = (x - x.mean(0)).double(), (y - y.mean(0)).double()
        xx = x.T @ x / len(x)
        xx.diagonal().add_(1e-4 * xx.diagonal().mean() + 1e-12)
        return cls(xx, y.T @ x / len(x) / y.square().mean(0).sum().clamp_min(1e-20).sqrt())


class _Group:
    """Channels of a group, with what they explain and each channel would add or take away."""

    def __init__(self, members: Tensor, ffns: Sequence[LinearStatistics]) -> None:
        self.members = members
        channels = len(ffns[0].xx)
        self.explained = 0.
        #: By channel: what is gained when it joins, or lost when a member leaves.
        self.joining, self.leaving = torch.zeros(2, channels, dtype=torch.float64)
        for xx, yx in ffns:
            inverse = torch.linalg.inv(xx[members][:, members])
            predictor = yx[:, members] @ inverse    # of every output from the members
            by_output = (predictor * yx[:, members]).sum(1)
            self.explained += float(by_output[members].sum())
            # What a new input adds is what it shares with the outputs beyond the old inputs.
            beyond = (xx.diagonal() - (xx[:, members] @ inverse * xx[:, members]).sum(1))
            beyond = beyond.clamp_min(1e-12)
            shared = yx - predictor @ xx[members]
            self.joining += by_output + (shared[members].square().sum(0)
                                         + shared.diagonal().square()) / beyond
            without = predictor[members].square() / inverse.diagonal()
            self.leaving[members] += (by_output[members] + without.sum(0)
                                      - without.diagonal())


def cluster_channels(ffns: Sequence[LinearStatistics], groups: int, restarts: int = 3,
                     generator: Optional[torch.Generator] = None) -> Tensor:
    """Order channels so that groups of equal size explain their own outputs best.

    What counts is the share of each group's outputs that the best linear predictor finds
    in the group's inputs, over all FFNs of a stage. Pairs of channels are exchanged while
    that raises the share, beginning with those that promise most. The search starts from
    the given order and from random ones, and the best end counts, so the result is never
    worse than the given order.

    Args:
        ffns: Statistics of each FFN on this residual stream.
        groups: Number of groups, a divisor of the channels.
        restarts: Number of random orders to start from.
        generator: Generator of the random orders.

    Returns:
        The order, ``C`` integers: the first ``C / groups`` are the first group, and so on.

    Raises:
        ValueError: The channels do not divide into the groups.
    """
    channels = len(ffns[0].xx)
    if channels % groups:
        raise ValueError(f'{channels} channels do not divide into groups={groups}')
    starts = [torch.arange(channels),
              *(torch.randperm(channels, generator=generator) for _ in range(restarts))]
    ends = [_exchange([_Group(members, ffns) for members in start.chunk(groups)], ffns)
            for start in starts]
    best = max(ends, key=lambda parts: sum(p.explained for p in parts))
    return torch.cat([p.members.sort().values for p in best])


def _exchange(parts: List[_Group], ffns: Sequence[LinearStatistics]) -> List[_Group]:
    """Exchange channels between the groups until no candidate gains."""
    channels = len(ffns[0].xx)
    label = torch.empty(channels, dtype=torch.long)
    for index, part in enumerate(parts):
        label[part.members] = index
    refused: Set[Tuple[int, int]] = set()
    while True:
        joining = torch.stack([p.joining for p in parts], 1)
        leaving = torch.stack([p.leaving for p in parts], 1).gather(1, label[:, None])
        move = joining[:, label] - leaving      # [i, j]: i joins the group of j
        gain = (move + move.T).masked_fill(label[:, None] == label, -1.).triu(1)
        for pair in gain.flatten().topk(min(_CANDIDATES, gain.numel())).indices.tolist():
            i, j = divmod(pair, channels)
            if gain[i, j] <= 0 or (i, j) in refused:
                continue
            a, b = int(label[i]), int(label[j])
            new = []
            for part, out, come in ((parts[a], i, j), (parts[b], j, i)):
                members = part.members.clone()
                members[members == out] = come
                new.append(_Group(members, ffns))
            before = parts[a].explained + parts[b].explained
            if new[0].explained + new[1].explained > before * (1 + 1e-9):
                parts[a], parts[b] = new
                label[i], label[j] = b, a
                refused.clear()
                break
            refused.add((i, j))
        else:
            return parts
