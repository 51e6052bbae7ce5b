"""Block-diagonal layers against dense layers with zeros off the blocks."""
import math

import pytest
import torch
from torch import nn

from mmscheme.layers import BlockDiagonalLinear, BlockDiagonalMLP, ShuffledGELU
from tests.test_layers.reference import TOLERANCE, as_map, four_layouts


def dense_matrix(layer: BlockDiagonalLinear) -> torch.Tensor:
    """The layer's whole matrix, written out block by block."""
    full = torch.zeros(layer.out_features, layer.in_features, dtype=layer.weight.dtype)
    o, i = layer.out_features // layer.groups, layer.in_features // layer.groups
    for g in range(layer.groups):
        full[g * o:(g + 1) * o, g * i:(g + 1) * i] = layer.weight[g * o:(g + 1) * o]
    return full


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('groups, hidden', [((4, 4), 96), ((1, 2), 60), ((3, 1), 36), ((1, 1), 48),
                                            ((6, 4), 24)])
def test_equals_dense_ffn_with_zeros_off_the_blocks(groups, hidden, dtype):
    torch.manual_seed(0)
    mlp = BlockDiagonalMLP(12, hidden, groups)
    nn.init.normal_(mlp.fc1.bias)
    nn.init.normal_(mlp.fc2.bias)
    x = torch.randn(3, 12, 5, 7)
    w1, w2 = dense_matrix(mlp.fc1).double(), dense_matrix(mlp.fc2).double()
    tokens = x.double().permute(0, 2, 3, 1)
    expected = nn.functional.gelu(tokens @ w1.T + mlp.fc1.bias.double()) @ w2.T + mlp.fc2.bias
    expected = expected.permute(0, 3, 1, 2)
    mlp, x = mlp.to(dtype), x.to(dtype)
    for layout in four_layouts(x):
        out = mlp(layout)
        assert out.dtype == dtype and out.shape == layout.shape
        assert (as_map(out, x).double() - expected).abs().max() < TOLERANCE[dtype] * max(
            1, expected.abs().max())


def test_gradients_equal_those_of_the_dense_layer():
    torch.manual_seed(0)
    layer = BlockDiagonalLinear(10, 15, groups=5).double()
    x = torch.randn(2, 10, 3, 5, dtype=torch.float64, requires_grad=True)
    x2 = x.detach().clone().requires_grad_()
    full = dense_matrix(layer).detach().requires_grad_()
    seed = torch.randn(2, 15, 3, 5, dtype=torch.float64)
    layer(x).backward(seed)
    torch.einsum('oi,bihw->bohw', full, x2).backward(seed)
    assert torch.allclose(x.grad, x2.grad)
    assert torch.allclose(layer.bias.grad, seed.sum((0, 2, 3)))
    for g in range(5):
        assert torch.allclose(layer.weight.grad[g * 3:(g + 1) * 3],
                              full.grad[g * 3:(g + 1) * 3, g * 2:(g + 1) * 2])


def test_initial_output_variance_is_that_of_the_dense_layer():
    torch.manual_seed(0)
    x = torch.randn(4096, 256)
    deviations = {}
    for groups, match in ((1, True), (4, True), (4, False)):
        layer = BlockDiagonalLinear(256, 2048, groups, init_std=0.02, match_variance=match)
        deviations[groups, match] = layer(x).std().item()
        assert layer.weight.std().item() == pytest.approx(
            0.02 * (math.sqrt(groups) if match else 1), rel=0.02)
        assert not layer.bias.any()
    assert deviations[4, True] == pytest.approx(deviations[1, True], rel=0.03)
    assert deviations[4, False] == pytest.approx(deviations[1, True] / 2, rel=0.03)


@pytest.mark.parametrize('groups', [1, 4])
def test_initial_weights_by_the_number_of_inputs(groups):
    torch.manual_seed(0)
    layer = BlockDiagonalLinear(64, 2048, groups)
    # Of a normal cut at two, which is all but the tails for so small deviations.
    assert layer.weight.std().item() == pytest.approx((64 / groups)**-0.5, rel=0.03)
    assert layer(torch.randn(4096, 64)).std().item() == pytest.approx(1, rel=0.05)


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    mlp = BlockDiagonalMLP(8, 32, 2, drop=0.5)
    x = torch.randn(2, 8, 4, 4)
    assert (mlp(x) == 0).float().mean() > 0.3
    mlp.eval()
    assert torch.equal(mlp(x), mlp(x)) and (mlp(x) == 0).sum() == 0


@pytest.mark.parametrize('make, message', [
    (lambda: BlockDiagonalMLP(12, 96, (5, 4)), r'embed_dims=12 does not divide into groups=5'),
    (lambda: BlockDiagonalMLP(12, 90, (4, 4)), r'hidden_dims=90 does not divide into groups=4'),
    (lambda: BlockDiagonalMLP(12, 96, (4, )), r'groups: expected .* found \(4,\)'),
    (lambda: BlockDiagonalMLP(12, 96, 0), r'groups: expected .* found'),
    (lambda: BlockDiagonalLinear(12, 10, 3), r'out_features=10 .* divides by \[1, 2, 5, 10\]'),
    (lambda: BlockDiagonalLinear(12, 24, 3)(torch.zeros(2, 5, 5, 12)), r'expected 12 channels'),
])
def test_wrong_widths_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_each_dropout_acts_alone():
    """A stock FFN may have only one of them."""
    torch.manual_seed(0)
    x = torch.randn(4, 50, 8)
    mlp = BlockDiagonalMLP(8, 32, 2).train()
    mlp.drop2.p = 0.5
    y = mlp(x)
    assert 0.4 < (y == 0).float().mean() < 0.6
    assert torch.allclose(y[y != 0], 2 * mlp.eval()(x)[y != 0], atol=1e-6)
    mlp.drop2.train()   # Monte Carlo dropout: these alone, in evaluation
    assert (mlp(x) == 0).any()
    mlp.drop1.p, mlp.drop2.p = 0.5, 0.
    y = mlp.train()(x)
    assert (y != 0).all() and not torch.allclose(y, mlp.eval()(x), atol=1e-3)


@pytest.mark.parametrize('shape', [(2, 24, 3, 5), (2, 7, 24)])
@pytest.mark.parametrize('groups, act, chain', [
    ((4, 4), nn.GELU, True), ((4, 4), lambda: ShuffledGELU(4), False), ((1, 2), nn.GELU, False),
    ((4, 2), nn.ReLU, False)])
def test_exports_as_small_dense_layers(shape, groups, act, chain):
    torch.manual_seed(0)
    mlp = BlockDiagonalMLP(24, 48, groups, act_layer=act, implementation='plain').eval()
    nn.init.normal_(mlp.fc1.bias)
    x = torch.randn(shape)
    exported = torch.export.export(mlp, (x, ), strict=False)
    assert (exported.module()(x) - mlp(x)).abs().max() < 1e-5
    nodes = [n for n in exported.graph.nodes if n.op == 'call_function']
    names = [n.target.__name__ for n in nodes]
    assert not [n for n in names if 'einsum' in n or 'bmm' in n]
    convolutions = [n for n in nodes if n.target is torch.ops.aten.conv2d.default]
    assert all(len(n.args) < 7 or n.args[6] == 1 for n in convolutions)
    layers = len(convolutions) if len(shape) == 4 else names.count('linear.default')
    assert layers == sum(groups)
    # Where a group goes through both layers, only their outputs are put together.
    assert names.count('cat.default') == (1 if chain else sum(g > 1 for g in groups))


def test_wide_groups_of_a_map_are_exported_as_convolutions():
    mlp = BlockDiagonalMLP(64, 128, 2, implementation='plain').eval()
    for x, layers in ((torch.randn(2, 64, 3, 5), 2), (torch.randn(2, 7, 64), 4)):
        exported = torch.export.export(mlp, (x, ), strict=False)
        assert (exported.module()(x) - mlp(x)).abs().max() < 1e-5
        names = [n.target.__name__ for n in exported.graph.nodes if n.op == 'call_function']
        assert names.count('conv2d.default') + names.count('linear.default') == layers
        assert ('cat.default' in names) == (x.dim() == 3)


def test_what_is_hooked_is_called_in_an_export():
    mlp = BlockDiagonalMLP(8, groups=2).eval()
    mlp.fc1.register_forward_hook(lambda m, args, out: out + 1)
    x = torch.randn(1, 3, 8)
    exported = torch.export.export(mlp, (x, ), strict=False).module()
    assert (exported(x) - mlp(x)).abs().max() < 1e-5
