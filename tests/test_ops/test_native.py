"""The C++ channel mixer against dense matrices in float64, as built for several processors."""
import logging
import platform

import pytest
import torch
from torch import nn

from mmscheme.layers import SCHEMEMixer, channel_covariance_attention
from mmscheme.ops import block_diagonal_mlp, choose_mlp, dispatch
from mmscheme.ops.cpu import build, operators
from tests.test_ops.reference import errors, make

SHAPES = [((12, 60, 4), 'gelu', True), ((34, 70, 2), 'silu', False), ((9, 27, 3), 'relu', True),
          ((5, 11, 1), 'gelu', False), ((12, 60, 4), 'star_relu', True),
          ((64, 512, 4), 'gelu', True), ((96, 200, 2), 'silu', True)]


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(scope='module', params=[
    'native', *(pytest.param(name, marks=pytest.mark.slow) for name in ('avx2', 'sse'))])
def processor(request, tmp_path_factory):
    """The library for this processor, and for older ones that this one can stand in for."""
    flags = {'native': ['-march=native'], 'avx2': ['-mavx2', '-mfma'], 'sse': []}[request.param]
    if flags and request.param != 'native' and platform.machine() != 'x86_64':
        pytest.skip('another family of processors')
    if request.param == 'avx2' and 'avx2' not in build._processor():
        pytest.skip('no AVX2 here')
    folder = tmp_path_factory.mktemp(request.param)
    path = build.build(folder, flags)
    assert path.parent == folder and build.build(folder, flags) == path
    assert [p.name for p in folder.iterdir()] == [path.name]
    return build.load(path)


@pytest.mark.parametrize('size', [(5, 7), (1, 2), (23, 13)])
@pytest.mark.parametrize('shape, act, bias', SHAPES)
def test_ffn_output_and_all_gradients(shape, act, bias, size, processor, threads, monkeypatch):
    monkeypatch.setattr(operators, 'library', lambda: processor)
    torch.manual_seed(0)
    for layout in ('channels_first', 'channels_last', 'tokens', 'view'):
        inputs = make(layout, *shape, act, bias, torch.float32, size)
        found = errors(block_diagonal_mlp, inputs, shape[2], act, implementation='native')
        assert max(found) < 1e-5


@pytest.mark.parametrize('size', [(2, 16, 30), (1, 5, 3), (3, 37, 101), (2, 130, 49),
                                  (1, 64, 700)])
@pytest.mark.parametrize('tau', [0.5, -0.2])
def test_covariance_attention(size, tau, processor, threads, monkeypatch):
    monkeypatch.setattr(operators, 'library', lambda: processor)
    torch.manual_seed(0)
    x, grad = torch.randn(size, requires_grad=True), torch.randn(size)
    exact = x.detach().double().requires_grad_()
    tau /= size[2]**.5
    y = channel_covariance_attention(x, tau, implementation='native')
    expected = channel_covariance_attention(exact, tau, implementation='plain')
    assert (y - expected).abs().max() < 3e-6 * expected.abs().max()
    dx, = torch.autograd.grad(y, x, grad)
    wanted, = torch.autograd.grad(expected, exact, grad.double())
    assert (dx - wanted).abs().max() < 5e-6 * wanted.abs().max()


@pytest.mark.parametrize('act', ['gelu', 'silu', 'relu'])
def test_activations_of_any_size(act, processor, monkeypatch):
    monkeypatch.setattr(operators, 'library', lambda: processor)
    values = torch.cat([torch.linspace(-12, 12, 4001), torch.tensor([-1e30, -1e4, -88., 88., 1e4])])
    x = values[:, None, None].requires_grad_()
    one = torch.ones(1, 1)
    y = block_diagonal_mlp(x, one, None, one, None, 1, act, implementation='native')
    exact = values.double().requires_grad_()
    expected = getattr(nn.functional, act)(exact)
    scale = expected.abs().clamp(min=1)
    assert ((y.flatten() - expected) / scale).abs().max() < 1e-6
    dx, = torch.autograd.grad(y.sum(), x)
    wanted, = torch.autograd.grad(expected.sum(), exact)
    assert (dx.flatten() - wanted).abs().max() < 2e-6
    bad = torch.tensor([[[float('nan')]], [[float('inf')]]])
    y = block_diagonal_mlp(bad, one, None, one, None, 1, act, implementation='native').flatten()
    assert y[0].isnan() and y[1] == float('inf')


def test_values_that_are_no_numbers_stay_visible(processor, monkeypatch):
    monkeypatch.setattr(operators, 'library', lambda: processor)
    x = torch.randn(2, 20, 9)
    x[0, 3, 4] = float('nan')
    found, expected = (channel_covariance_attention(x, .1, implementation=i).isnan()
                       for i in ('native', 'plain'))
    assert torch.equal(found, expected)


@pytest.mark.parametrize('scaling', ['gram', 'covariance'])
@pytest.mark.parametrize('tokens', [True, False])
@pytest.mark.parametrize('act_layer', [nn.GELU, nn.SiLU])
def test_mixer_of_training(scaling, tokens, act_layer, threads):
    torch.manual_seed(0)
    mixer, exact = (SCHEMEMixer(24, 96, 4, cca_scaling=scaling, act_layer=act_layer,
                                implementation=i) for i in ('auto', 'plain'))
    exact.double().load_state_dict(mixer.state_dict())
    x = torch.randn((3, 35, 24) if tokens else (3, 24, 7, 5), requires_grad=True)
    grad, x64 = torch.randn_like(x), x.detach().double().requires_grad_()
    for factor in (1, .3, 0):
        for module in (mixer, exact):
            module.lower_cca_factor(factor)
        y, expected = mixer(x), exact(x64)
        # At 0 the FFN alone is computed.
        assert ('_FusedMixerBackward' in str(_graph(y))) == bool(factor)
        found = torch.autograd.grad(y, [x, *mixer.parameters()], grad)
        wanted = torch.autograd.grad(expected, [x64, *exact.parameters()], grad.double())
        for a, b in zip((y, *found), (expected, *wanted)):
            # The gradient of alpha is a difference of two sums over everything.
            limit = 1e-5 * b.abs().max() if b.numel() > 1 else 1e-4
            assert (a - b).abs().max() <= limit


def _graph(y):
    names, todo = [], [y.grad_fn]
    while todo:
        node = todo.pop()
        names.append(node.name())
        todo += [n for n, _ in node.next_functions if n is not None]
    return names


def test_mixer_keeps_neither_branch():
    saved = []
    x = torch.randn(2, 8, 16, 16, requires_grad=True)
    mixer = SCHEMEMixer(8)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        mixer(x)
    assert sum(t.numel() == x.numel() for t in saved) == 1
    assert max(t.numel() for t in saved) == x.numel()


@pytest.mark.parametrize('training', [True, False])
def test_parameters_of_another_type_or_with_gaps_are_not_misread(training):
    torch.manual_seed(0)
    mixer, x = SCHEMEMixer(8, 32, groups=2).train(training), torch.randn(2, 8, 5, 5)
    for layer in (mixer.ffn.fc1, mixer.ffn.fc2):
        nn.init.normal_(layer.bias)
    with torch.set_grad_enabled(training):
        expected = mixer(x)
        assert torch.allclose(mixer.double()(x), expected, atol=1e-6)
        for layer in (mixer.float().ffn.fc1, mixer.ffn.fc2):
            layer.bias = nn.Parameter(layer.bias.detach().repeat_interleave(2)[::2])
        assert torch.allclose(mixer(x), expected, atol=1e-6)


def test_hooked_branches_are_called():
    mixer, seen = SCHEMEMixer(8), []
    x = torch.randn(2, 8, 5, 5)
    expected = mixer(x)
    for branch in (mixer.ffn, mixer.cca):
        branch.register_forward_hook(lambda m, args, out: seen.append(type(m).__name__))
    assert torch.allclose(mixer(x), expected, atol=1e-6)
    assert seen == ['BlockDiagonalMLP', 'ChannelCovarianceAttention']


@pytest.mark.parametrize('compiler, reason', [('no-such-compiler', 'No such file'),
                                              ('false', 'non-zero exit status')])
def test_without_a_compiler(compiler, reason, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv('CXX', compiler)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setattr(dispatch, '_said', set())
    build._find.cache_clear()
    try:
        x = torch.randn(2, 8, 3, 3)
        with caplog.at_level(logging.WARNING, 'mmscheme'):
            for _ in range(2):
                assert choose_mlp(x, dict(groups=2, act='gelu'), 2) == 'chunked'
                assert choose_mlp(x, dict(groups=2, act='gelu'), 2, 'native') == 'plain'
        assert len(caplog.records) == 1 and reason in caplog.records[0].getMessage()
        assert SCHEMEMixer(8)(x).shape == x.shape
        with pytest.raises(RuntimeError, match='could not be built'):
            build.library()
    finally:
        build._find.cache_clear()
