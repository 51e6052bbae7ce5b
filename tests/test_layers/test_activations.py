"""The shuffle between block-diagonal layers, against loops and a permuted dense matrix."""
import pytest
import torch
from torch import nn

from mmscheme.layers import BlockDiagonalMLP, ShuffledGELU
from mmscheme.models import SCHEMEformer


@pytest.mark.parametrize('shape, dim', [((2, 12, 3, 5), 1), ((2, 7, 12), 2), ((5, 12), 1)])
@pytest.mark.parametrize('groups', [1, 2, 3, 4])
def test_shuffle_deals_channels_out(shape, dim, groups):
    x = torch.randn(shape)
    y = ShuffledGELU(groups)(x)
    width = 12 // groups
    for g in range(groups):
        for i in range(width):
            expected = nn.functional.gelu(x.select(dim, g * width + i))
            assert torch.allclose(y.select(dim, i * groups + g), expected, atol=1e-6)


def jacobian(mlp):
    x = torch.randn(1, 8)
    return torch.autograd.functional.jacobian(mlp, x)[0, :, 0].ne(0)


def test_every_output_sees_every_input():
    torch.manual_seed(0)
    blocks = torch.block_diag(*[torch.ones(2, 2)] * 4).bool()
    assert torch.equal(jacobian(BlockDiagonalMLP(8, 64, 4)), blocks)
    shuffled = BlockDiagonalMLP(8, 64, 4, act_layer=lambda: ShuffledGELU(4))
    assert jacobian(shuffled).all()


def test_maps_and_tokens_agree_and_everything_is_trained():
    mlp = BlockDiagonalMLP(8, 32, 2, act_layer=lambda: ShuffledGELU(2))
    x = torch.randn(2, 8, 3, 5)
    y = mlp(x)
    assert torch.allclose(y.flatten(2).mT, mlp(x.flatten(2).mT), atol=1e-6)
    y.square().sum().backward()
    assert all(p.grad.ne(0).any() for p in mlp.parameters())


def test_in_a_backbone_by_config():
    model = SCHEMEformer(dict(depths=(1, 1, 1, 1), embed_dims=(32, 32, 32, 32)), cca=False,
                         act_cfg=dict(type='mmscheme.ShuffledGELU', groups=4))
    assert sum(isinstance(m, ShuffledGELU) for m in model.modules()) == 4
    assert model(torch.randn(1, 3, 33, 47))[0].shape == (1, 32, 8, 12)


def test_bad_groups():
    with pytest.raises(ValueError, match='groups: expected a whole number >= 1, found 0'):
        ShuffledGELU(0)
    with pytest.raises(ValueError, match='10 channels do not divide into groups=4'):
        ShuffledGELU(4)(torch.randn(2, 10))
