"""The order of channels: what it may not change, and what it is to gather."""
import itertools

import pytest
import torch
from torch import nn

from mmscheme.converters import LinearStatistics, cluster_channels, permute_stage
from mmscheme.models import SCHEMEformer

TINY = dict(depths=(1, 2, 2, 1), embed_dims=(8, 16, 32, 64))
DENSE = dict(groups=(1, 1), expansion=4, cca=False)


@pytest.mark.parametrize('norm', ['GN', 'mmpretrain.LN2d', 'BN'])
@pytest.mark.parametrize('arguments', [dict(pos_embed=True), dict(out_indices=(3, )),
                                       dict(out_indices=(1, 2))])
def test_the_function_stays_and_outputs_come_in_the_new_order(arguments, norm):
    torch.manual_seed(0)
    norm_cfg = dict(type=norm, num_groups=1) if norm == 'GN' else dict(type=norm)
    model = SCHEMEformer(TINY, norm_cfg=norm_cfg, **DENSE, **arguments)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.2, 1)
    model.double().eval()
    x = torch.randn(2, 3, 97, 65, dtype=torch.double)
    before = model(x)
    orders = [torch.randperm(w) for w in TINY['embed_dims'][:len(model.stages)]]
    for i, order in enumerate(orders):
        changed = {k: v.clone() for k, v in model.state_dict().items()}
        permute_stage(model, i, order)
        assert any(not torch.equal(v, changed[k]) for k, v in model.state_dict().items())
    for i, a, b in zip(model.out_indices, before, model(x)):
        assert torch.allclose(a[:, orders[i]], b, rtol=1e-9, atol=1e-9 * float(a.abs().max()))


def test_what_cannot_be_permuted_is_an_error():
    with pytest.raises(ValueError, match='expected a permutation of 8 channels'):
        permute_stage(SCHEMEformer(TINY, **DENSE), 0, torch.zeros(8, dtype=torch.long))
    with pytest.raises(ValueError, match=r'stage 0: expected dense FFNs, found groups=\(4, 4\)'):
        permute_stage(SCHEMEformer(TINY), 0, torch.arange(8))
    with pytest.raises(ValueError, match='stage 0: its norms have groups of channels'):
        permute_stage(SCHEMEformer(TINY, norm_cfg=dict(type='GN', num_groups=2), **DENSE), 0,
                      torch.arange(8))


def explained(x, y, order, groups):
    """Variance of the groups' outputs that regression on their own inputs explains."""
    total = 0.
    y = y - y.mean(0)
    for members in order.chunk(groups):
        design = torch.cat([x[:, members], torch.ones(len(x), 1, dtype=x.dtype)], 1)
        fit = design @ torch.linalg.lstsq(design, y[:, members]).solution
        total += fit.square().sum().item()
    return total / y.square().sum().item()


def test_blocks_that_are_there_are_found():
    torch.manual_seed(0)
    hidden = torch.randperm(24)
    x, noise = torch.randn(4000, 24).double(), torch.randn(4000, 24).double()
    y = 0.05 * noise
    for members in hidden.chunk(4):
        y[:, members] += nn.functional.gelu(x[:, members] @ torch.randn(6, 6).double())
    order = cluster_channels([LinearStatistics.of(x, y)], 4)
    assert {frozenset(m.tolist()) for m in order.chunk(4)} \
        == {frozenset(m.tolist()) for m in hidden.chunk(4)}


@pytest.mark.parametrize('seed', range(4))
def test_no_exchange_is_better_and_few_orders_are(seed):
    torch.manual_seed(seed)
    channels = 6
    x = torch.randn(500, 3).double() @ torch.randn(3, channels).double()
    x += 0.5 * torch.randn(500, channels).double()
    ys = [nn.functional.gelu(x @ torch.randn(channels, 9).double())
          @ torch.randn(9, channels).double() for _ in range(2)]

    def quality(order):
        return sum(explained(x, y, order, 2) for y in ys)

    order = cluster_channels([LinearStatistics.of(x, y) for y in ys], 2)
    found = quality(order)
    assert sorted(order.tolist()) == list(range(channels))
    for i, j in itertools.product(range(3), range(3, 6)):
        other = order.clone()
        other[i], other[j] = order[j], order[i]
        assert quality(other) <= found + 1e-3
    every = [quality(torch.tensor(p)) for p in itertools.permutations(range(channels))
             if p[0] == 0 and list(p[:3]) == sorted(p[:3]) and list(p[3:]) == sorted(p[3:])]
    assert len(every) == 10
    assert sum(q > found + 1e-3 for q in every) <= 1
    with pytest.raises(ValueError, match='6 channels do not divide into groups=4'):
        cluster_channels([LinearStatistics.of(x, ys[0])], 4)
