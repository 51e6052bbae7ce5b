"""From a trained dense SCHEMEformer to a block-diagonal one, as a warm start."""
import copy
from typing import Callable, Dict, List, Sequence, Tuple

import torch
from torch import Tensor

from mmscheme.models import SCHEMEformer
from mmscheme.utils.checkpoint_io import compare_state_dicts

from .channel_order import LinearStatistics, cluster_channels, permute_stage
from .fit import LayerFit, check_pair, collect, find_ffns, fit_mixers

__all__ = ['PERMUTATIONS', 'convert_backbone']

PERMUTATIONS = ('cluster', 'none', 'random')

# Parts of the images, so that 15 % of them can be held out.
_PARTS = 20


def convert_backbone(dense: SCHEMEformer, student: SCHEMEformer, images: Sequence[Tensor],
                     permutation: str = 'cluster', movable: Sequence[int] = (0, 1, 2, 3),
                     max_tokens: int = 24576, seed: int = 0,
                     progress: Callable[[LayerFit], None] = lambda fit: None
                     ) -> Tuple[List[LayerFit], Dict[int, Tensor]]:
    """Fill a block-diagonal backbone with what a trained dense one has learned.

    1. The channels of each stage are ordered so that those that work together in its FFNs
       share a block. That changes no output of the dense backbone.
    2. All but the FFNs is copied.
    3. The FFNs are fitted by :func:`fit_mixers`.

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
    _check_rest(dense, student)
    check_pair(student, dense)
    count = sum(len(batch) for batch in images)
    if count < 8:
        raise ValueError('expected at least 8 images to fit on')
    images = [part for batch in images for part in batch.split(-(-count // _PARTS))]
    generator = torch.Generator().manual_seed(seed)
    dense = copy.deepcopy(dense).eval()
    orders = _choose_orders(dense, student, images, permutation, movable, max_tokens, generator)
    for stage, order in orders.items():
        permute_stage(dense, stage, order)
    own = student.state_dict()
    own.update({k: v for k, v in dense.state_dict().items() if 'channel_mixer' not in k})
    student.load_state_dict(own)
    report = fit_mixers(student, dense, SCHEMEformer.__call__, images, max_tokens=max_tokens,
                        seed=seed, progress=progress)
    return report, orders


def _check_rest(dense: SCHEMEformer, student: SCHEMEformer) -> None:
    """Check that the two differ in their FFNs alone."""
    own, other = ({k: v for k, v in b.state_dict().items() if 'channel_mixer' not in k}
                  for b in (student, dense))
    problems = compare_state_dicts(own, other).problems()
    if problems:
        raise ValueError('expected two backbones that differ only in their FFNs, found in the '
                         f'dense one: {"; ".join(problems)}')


@torch.no_grad()
def _choose_orders(dense: SCHEMEformer, student: SCHEMEformer, images: Sequence[Tensor],
                   permutation: str, movable: Sequence[int], max_tokens: int,
                   generator: torch.Generator) -> Dict[int, Tensor]:
    """Choose the order of the channels of each stage that is to change."""
    orders: Dict[int, Tensor] = {}
    if permutation == 'none':
        return orders
    ffns = find_ffns(dense)
    samples = collect(dense, ffns, ffns, SCHEMEformer.__call__, images, max_tokens=max_tokens,
                      generator=generator) if permutation == 'cluster' else {}
    tokens = {name: torch.cat([x.flatten(0, 1) for batch in batches for x in batch])
              for name, batches in samples.items()}
    for stage in movable:
        ffn = student.stages[stage][0].channel_mixer.ffn
        # With one group in a layer every channel reaches every channel, in any order.
        groups = min(ffn.fc1.groups, ffn.fc2.groups)
        channels = ffn.fc1.in_features
        if permutation == 'random':
            orders[stage] = torch.randperm(channels, generator=generator)
        elif groups > 1:
            orders[stage] = cluster_channels(
                [LinearStatistics.of(x, ffns[name](x)) for name, x in tokens.items()
                 if name.startswith(f'stages.{stage}.')], groups, generator=generator)
    return orders
