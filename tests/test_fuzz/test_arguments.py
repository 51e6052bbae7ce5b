"""Any arguments and shapes: it is built and runs, or says in words what is wrong."""
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.registry import MODELS

from mmscheme.layers import (
    BlockDiagonalLinear,
    BlockDiagonalMLP,
    ChannelCovarianceAttention,
    Pooling,
    SCHEMEMixer,
    SelfAttention,
)
from mmscheme.models import SCHEMEformer

ODD = st.sampled_from([None, True, 0, -1, 1.5, float('nan'), float('inf'), -float('inf'), 1e300, '',
                       'text', (), (1, ), (0, 4), (1, 2, 3), [2, 2], {}])
SMALL = st.integers(1, 12)
WIDTHS = st.sampled_from([1, 2, 3, 4, 6, 8, 12, 16, 32, 64])
GROUPS = st.one_of(st.sampled_from([1, 2, 3, 4, (1, 1), (2, 4), (4, 2), [4, 4]]))
FLAG = st.booleans()
RATES = st.floats(0, 1)
# Three times out of four tokens or a map.
SHAPES = st.integers(0, 3).flatmap(
    lambda n: st.lists(st.integers(n > 0, 9), min_size=3 if n else 0, max_size=4 if n else 5))


def mostly(strategy):
    """Nineteen times out of twenty something that may be right."""
    return st.integers(0, 19).flatmap(lambda n: ODD if n == 0 else strategy)


def fuzz(test):
    """As many examples as --fuzz asks for, always the same in the small part."""

    def run(fuzz_full):
        many = settings(max_examples=400 if fuzz_full else 15, deadline=None, database=None,
                        derandomize=not fuzz_full, suppress_health_check=list(HealthCheck))
        many(test)()

    run.__name__ = test.__name__
    return run


def attempt(build, *run):
    """Builds and runs; what goes wrong must be said in words by the right exception."""
    try:
        module = build()
        for call in run:
            call(module)
    except (ValueError, TypeError) as e:
        assert str(e).strip()
    except RuntimeError as e:  # the machine is at its limits, not the code
        assert 'allocate memory' in str(e)


def outputs(module, shape, channels, place):
    """Runs a module in both modes on a shape, mostly with the right channels."""
    shape = list(shape)
    if channels is not None and len(shape) > 1:
        shape[1 if len(shape) == 4 else -1] = max(channels, 0)
    for mode in (True, False):
        x = torch.randn(shape, requires_grad=True)
        y = module.train(mode)(x)
        assert place == 'any' or y.shape[:1] == x.shape[:1]
        if y.requires_grad:
            y.sum().backward()


@fuzz
@given(mostly(WIDTHS), mostly(WIDTHS), mostly(st.sampled_from([1, 2, 4])), mostly(FLAG),
       mostly(RATES), mostly(FLAG), SHAPES, FLAG)
def test_linear(inputs, out, groups, bias, std, match, shape, right):
    attempt(lambda: BlockDiagonalLinear(inputs, out, groups, bias=bias, init_std=std,
                                        match_variance=match),
            lambda m: outputs(m, shape, inputs if right else None, 'any'))


@fuzz
@given(mostly(WIDTHS), mostly(st.one_of(st.none(), WIDTHS)), mostly(GROUPS), mostly(RATES),
       mostly(st.sampled_from(['auto', 'plain', 'chunked', 'triton'])), SHAPES, FLAG)
def test_mlp(dims, hidden, groups, drop, implementation, shape, right):
    attempt(lambda: BlockDiagonalMLP(dims, hidden, groups, drop=drop,
                                     implementation=implementation),
            lambda m: outputs(m, shape, dims if right else None, 'any'))


@fuzz
@given(mostly(WIDTHS), mostly(st.one_of(st.none(), WIDTHS)), mostly(GROUPS), mostly(FLAG),
       mostly(FLAG), mostly(st.sampled_from(['gram', 'covariance'])),
       mostly(st.one_of(st.none(), st.floats(0, 10))), mostly(RATES), SHAPES, FLAG,
       mostly(RATES))
def test_mixer(dims, hidden, groups, cca, keep, scaling, tau, drop, shape, right, factor):
    attempt(lambda: SCHEMEMixer(dims, hidden, groups, cca=cca, keep_cca=keep, cca_scaling=scaling,
                                cca_tau=tau, drop=drop),
            lambda m: outputs(m, shape, dims if right else None, 'any'),
            lambda m: m.lower_cca_factor(factor))


@fuzz
@given(mostly(WIDTHS), mostly(st.floats(0.5, 8)), mostly(st.sampled_from(['gram', 'covariance'])),
       mostly(st.one_of(st.none(), st.floats(0, 10))), mostly(st.integers(0, 3)),
       mostly(st.sampled_from(['auto', 'plain'])), SHAPES)
def test_cca(dims, expansion, scaling, tau, extra, implementation, shape):
    attempt(lambda: ChannelCovarianceAttention(dims, expansion, scaling=scaling, tau=tau,
                                               num_extra_tokens=extra,
                                               implementation=implementation),
            lambda m: outputs(m, shape, None, 'any'))


@fuzz
@given(FLAG, mostly(WIDTHS), mostly(st.sampled_from([1, 2, 3, 5, 32])), SHAPES, FLAG)
def test_token_mixers(pool, dims, size, shape, right):
    attempt(lambda: (Pooling(dims, pool_size=size) if pool else
                     SelfAttention(dims, head_dims=size)),
            lambda m: outputs(m, shape, dims if right else None, 'any'))


@fuzz
@given(st.fixed_dictionaries({}, optional=dict(
    arch=mostly(st.fixed_dictionaries(dict(
        depths=mostly(st.lists(mostly(st.integers(1, 2)), min_size=4, max_size=4)),
        embed_dims=mostly(st.lists(mostly(st.sampled_from([32, 64])), min_size=4, max_size=4))),
        optional=dict(token_mixers=mostly(st.lists(mostly(st.sampled_from(
            ['pool', 'attention'])), min_size=4, max_size=4)), layer_scale_init=mostly(RATES)))),
    groups=mostly(GROUPS), expansion=mostly(st.sampled_from([1, 2, 0.5, 8])), cca=mostly(FLAG),
    keep_cca=mostly(FLAG), cca_scaling=mostly(st.sampled_from(['gram', 'covariance'])),
    cca_tau=mostly(st.one_of(st.none(), RATES)), match_variance=mostly(FLAG),
    init_std=mostly(st.one_of(st.none(), RATES)), alpha_init=mostly(RATES),
    in_channels=mostly(SMALL), drop_rate=mostly(RATES), drop_path_rate=mostly(RATES),
    out_indices=mostly(st.lists(st.integers(0, 3), min_size=1, max_size=4)),
    frozen_stages=mostly(st.integers(-1, 4)), pos_embed=mostly(FLAG), with_cp=mostly(FLAG),
    norm_cfg=mostly(st.sampled_from([dict(type='GN', num_groups=1), dict(type='BN'),
                                     dict(type='GN', num_groups=7), dict(type='no')])),
    act_cfg=mostly(st.sampled_from([dict(type='GELU'), dict(type='ReLU'), dict(type='no'),
                                    dict(type='mmscheme.ShuffledGELU', groups=2)])),
    deploy=mostly(FLAG), implementation=mostly(st.sampled_from(['auto', 'plain'])))),
       st.lists(st.sampled_from([0, 3, 31, 33, 47, 64]), min_size=2, max_size=2), FLAG)
def test_backbone(arguments, size, train):
    if 'arch' not in arguments or isinstance(arguments['arch'], str):
        arguments['arch'] = dict(depths=(1, 1, 1, 1), embed_dims=(32, ) * 4)
    attempt(lambda: SCHEMEformer(**arguments).train(train),
            lambda m: m(torch.randn(2, m.downsamples[0].in_channels, *size)))


@fuzz
@given(st.fixed_dictionaries({}, optional=dict(
    groups=mostly(st.one_of(GROUPS, st.just('auto'))),
    expansion=mostly(st.sampled_from([None, 1, 2, 0.5, 8])), cca=mostly(FLAG),
    keep_cca=mostly(FLAG), cca_scaling=mostly(st.sampled_from(['gram', 'covariance'])),
    cca_tau=mostly(st.one_of(st.none(), RATES)), match_variance=mostly(FLAG),
    init_std=mostly(st.one_of(st.none(), RATES)), alpha_init=mostly(RATES),
    stages=mostly(st.lists(st.integers(0, 3), max_size=4)), seed_from_dense=mostly(FLAG))),
       mostly(st.sampled_from([
           dict(type='mmseg.MixVisionTransformer', embed_dims=8, num_layers=(1, 1, 1, 1),
                num_heads=(1, 1, 1, 1)),
           dict(type='mmpretrain.VisionTransformer', img_size=32, patch_size=16, arch=dict(
               embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32)),
           dict(type='mmseg.ResNet', depth=18)])))
def test_wrapper(arguments, backbone):
    attempt(lambda: MODELS.build(dict(type='mmscheme.SCHEMEWrapper', backbone=backbone,
                                      **arguments)),
            lambda m: m(torch.randn(2, 3, 32, 32)))


@pytest.mark.parametrize('build', [
    lambda: BlockDiagonalLinear(2.5, 4), lambda: SCHEMEMixer(8, expansion=4),
    lambda: SCHEMEformer(expansion=float('inf'))])
def test_the_attempt_is_one(build):
    with pytest.raises((ValueError, TypeError)):
        build()
