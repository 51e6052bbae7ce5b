"""The registered FFNs beside mmcv's."""
import pytest
import torch
from mmcv.cnn.bricks.transformer import FFN, build_feedforward_network, build_transformer_layer

from mmscheme.models import SCHEMEFFN, BlockDiagonalFFN

ARGUMENTS = dict(embed_dims=16, feedforward_channels=64, num_fcs=2, act_cfg=dict(type='GELU'),
                 ffn_drop=0.1, dropout_layer=dict(type='DropPath', drop_prob=0.1))


@pytest.mark.parametrize('extra', [{}, dict(add_identity=False), dict(layer_scale_init_value=0.3),
                                   dict(act_cfg=dict(type='ReLU'))])
@pytest.mark.parametrize('with_identity', [False, True])
def test_one_group_equals_mmcv_ffn(extra, with_identity):
    torch.manual_seed(0)
    arguments = {**ARGUMENTS, **extra}
    theirs = FFN(**arguments).eval()
    ours = BlockDiagonalFFN(**arguments, groups=1).eval()
    state = theirs.state_dict()
    names = {'layers.0.0': 'mixer.fc1', 'layers.1': 'mixer.fc2'}
    ours.load_state_dict({next((k.replace(a, b) for a, b in names.items() if k.startswith(a)), k): v
                          for k, v in state.items()})
    x = torch.randn(2, 5, 16)
    identity = torch.randn_like(x) if with_identity else None
    assert torch.allclose(ours(x, identity), theirs(x, identity), atol=1e-6)


@pytest.mark.parametrize('name', ['BlockDiagonalFFN', 'SCHEMEFFN'])
def test_built_through_ffn_cfgs(name):
    layer = build_transformer_layer(dict(
        type='BaseTransformerLayer',
        attn_cfgs=dict(type='MultiheadAttention', embed_dims=16, num_heads=2),
        ffn_cfgs=dict(ARGUMENTS, type=f'mmscheme.{name}', groups=(2, 4)),
        operation_order=('self_attn', 'norm', 'ffn', 'norm')))
    assert isinstance(layer.ffns[0], (BlockDiagonalFFN, SCHEMEFFN))
    out = layer(torch.randn(5, 2, 16))
    out.square().sum().backward()
    assert out.shape == (5, 2, 16)
    assert all(p.grad is not None for p in layer.parameters())


@pytest.mark.parametrize('batch_first', [True, False])
def test_samples_of_a_batch_do_not_see_each_other(batch_first):
    torch.manual_seed(0)
    layer = build_transformer_layer(dict(
        type='BaseTransformerLayer', batch_first=batch_first,
        # mmcv keeps the dropout of the last model that named one as the default.
        attn_cfgs=dict(type='MultiheadAttention', embed_dims=16, num_heads=2,
                       dropout_layer=dict(type='Dropout', drop_prob=0.)),
        ffn_cfgs=dict(type='mmscheme.SCHEMEFFN', embed_dims=16, feedforward_channels=64,
                      batch_first=batch_first),
        operation_order=('self_attn', 'norm', 'ffn', 'norm')))
    x = torch.randn(3, 7, 16)  # (B, N, C)
    y = x.clone()
    y[1] = torch.randn(7, 16)
    outs = [layer(t if batch_first else t.transpose(0, 1)) for t in (x, y)]
    a, b = (out if batch_first else out.transpose(0, 1) for out in outs)
    assert torch.allclose(a[[0, 2]], b[[0, 2]], atol=1e-6) and not torch.allclose(a[1], b[1])
    assert torch.allclose(a[:1], (lambda t: t if batch_first else t.transpose(0, 1))(
        layer(x[:1] if batch_first else x[:1].transpose(0, 1))), atol=1e-6)


def test_scheme_ffn_is_the_mixer_with_identity():
    torch.manual_seed(0)
    ffn = build_feedforward_network(dict(type='mmscheme.SCHEMEFFN', embed_dims=16,
                                         feedforward_channels=64))
    x = torch.randn(2, 7, 16)
    assert torch.equal(ffn(x), x + ffn.mixer(x))
    assert not torch.equal(ffn(x), ffn.eval()(x))  # CCA is dropped


@pytest.mark.parametrize('cls', [BlockDiagonalFFN, SCHEMEFFN])
def test_wrong_arguments_are_named(cls):
    with pytest.raises(ValueError, match='num_fcs: expected 2, found 3'):
        cls(**{**ARGUMENTS, 'num_fcs': 3})
    with pytest.raises(ValueError, match='embed_dims=16 does not divide into groups=5'):
        cls(**ARGUMENTS, groups=5)
    with pytest.raises(TypeError, match='feedforward_chanels'):
        cls(embed_dims=16, feedforward_chanels=64)
