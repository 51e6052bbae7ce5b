"""The fused block-diagonal FFN against dense matrices in float64."""
import logging

import pytest
import torch
from torch import nn

from mmscheme.layers import BlockDiagonalMLP, SCHEMEMixer, StarReLU
from mmscheme.ops import block_diagonal_mlp, choose_mlp, chunked, dispatch, mlp
from mmscheme.ops.scheme_mixer import _mix as mixer_operator
from tests.test_ops.reference import errors, make

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2}


@pytest.fixture(params=[(2000, 32), (2000, 1), (10**9, 1)],
                ids=['many_chunks_of_a_group', 'many_chunks', 'one_chunk'])
def chunks(request, monkeypatch):
    size, narrow = request.param
    for name in ('_ALONE', '_TOGETHER'):
        monkeypatch.setattr(chunked, name, size)
    monkeypatch.setattr(chunked, '_NARROW', narrow)


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('layout', ['channels_first', 'channels_last', 'tokens', 'view'])
@pytest.mark.parametrize('shape, act, bias', [
    ((12, 60, 4), 'gelu', True), ((34, 70, 2), 'silu', False), ((9, 27, 3), 'relu', True),
    ((5, 11, 1), 'gelu', False), ((12, 60, 4), 'star_relu', True)])
def test_output_and_all_gradients(shape, act, bias, layout, dtype, chunks):
    torch.manual_seed(0)
    found = errors(block_diagonal_mlp, make(layout, *shape, act, bias, dtype), shape[2], act)
    assert max(found) < TOLERANCE[dtype]


@pytest.mark.parametrize('layout', ['channels_first', 'channels_last', 'tokens', 'view'])
@pytest.mark.parametrize('shape, act, bias', [
    ((12, 60, 4), 'gelu', True), ((34, 70, 2), 'silu', False), ((9, 27, 3), 'relu', True),
    ((12, 60, 4), 'star_relu', True)])
def test_batched_output_and_all_gradients(shape, act, bias, layout):
    torch.manual_seed(0)
    inputs = make(layout, *shape, act, bias, torch.float64)
    assert max(errors(block_diagonal_mlp, inputs, shape[2], act, implementation='batched')) < 1e-12


def test_gradcheck_and_no_second_derivative():
    torch.manual_seed(0)
    inputs = [t for t in make('tokens', 6, 10, 2, 'gelu', True, torch.float64, (1, 5), 1)
              if t is not None]
    assert torch.autograd.gradcheck(lambda *t: block_diagonal_mlp(*t, 2, 'gelu'), inputs)
    grad, = torch.autograd.grad(block_diagonal_mlp(*inputs, 2, 'gelu').sum(), inputs[0],
                                create_graph=True)
    with pytest.raises(RuntimeError, match='mmscheme'):
        grad.sum().backward()


@pytest.mark.parametrize('threads', [1, 2])
def test_the_number_of_threads_changes_nothing_but_rounding(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        torch.manual_seed(0)
        inputs = make('channels_last', 32, 128, 4, 'gelu', True, torch.float32, (8, 8), 2)
        assert max(errors(block_diagonal_mlp, inputs, 4, 'gelu')) < 1e-5
        a, b = (torch.autograd.grad(block_diagonal_mlp(*inputs[:5], 4, 'gelu').sum(), inputs[:5])
                for _ in range(2))
        assert all(torch.equal(p, q) for p, q in zip(a, b))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize('act_layer', [nn.GELU, nn.SiLU, nn.ReLU, StarReLU])
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('implementation', ['chunked', 'native'])
def test_module_equals_the_plain_one(act_layer, training, implementation):
    torch.manual_seed(0)
    fused = SCHEMEMixer(20, 100, 5, act_layer=act_layer, implementation=implementation
                        ).train(training)
    plain = SCHEMEMixer(20, 100, 5, act_layer=act_layer, implementation='plain').train(training)
    plain.load_state_dict(fused.state_dict())
    x = torch.randn(2, 20, 5, 3)
    found, expected = fused(x), plain(x)
    assert torch.allclose(found, expected, atol=1e-5)
    grads = [torch.autograd.grad(y.square().sum(), list(m.parameters()))
             for y, m in ((found, fused), (expected, plain))]
    for a, b in zip(*grads):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-5)
    with torch.no_grad():  # alpha is multiplied in passing
        assert torch.allclose(fused(x), expected, atol=1e-5)


def saved_values(module, x):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        module(x)
    return max(t.numel() for t in saved)


def test_the_hidden_map_is_not_kept():
    x = torch.randn(2, 8, 16, 16, requires_grad=True)
    assert saved_values(BlockDiagonalMLP(8), x) == x.numel()
    assert saved_values(BlockDiagonalMLP(8, implementation='plain'), x) == 8 * x.numel()


def test_compiled_in_one_graph():
    torch.manual_seed(0)
    mixer = SCHEMEMixer(16, 64)
    x = torch.randn(2, 16, 5, 3, requires_grad=True)
    compiled = torch.compile(mixer, fullgraph=True, backend='aot_eager')
    grads = []
    for run in (mixer, compiled):
        y = run(x)
        grads.append((y, *torch.autograd.grad(y.square().sum(), [x, *mixer.parameters()])))
    for a, b in zip(*grads):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)
    inputs = [t.detach() for t in make('tokens', 6, 12, 2, 'gelu', True, torch.float32)[:5]]
    for implementation in ('chunked', 'native'):
        options = 2, 'gelu', None, None, implementation
        torch.library.opcheck(mlp._mlp, (*inputs, *options))
        torch.library.opcheck(mlp._mlp_backward, (inputs[0], *inputs[:4], *options))
    alpha = torch.tensor(.3)
    torch.library.opcheck(mixer_operator, (*inputs, 2, 'gelu', None, None, alpha, .01))


def test_autocast_computes_in_its_dtype():
    torch.manual_seed(0)
    fused, plain = (BlockDiagonalMLP(16, 64, implementation=i) for i in ('chunked', 'plain'))
    plain.load_state_dict(fused.state_dict())
    x = torch.randn(2, 16, 7, 5)
    outs = []
    for module in (fused, plain):
        with torch.autocast('cpu', dtype=torch.bfloat16):
            y = module(x)
        y.float().square().sum().backward()
        outs.append((y, module.fc1.weight.grad))
    assert outs[0][0].dtype == outs[1][0].dtype == torch.bfloat16
    assert outs[0][1].dtype == torch.float32
    for a, b in zip(*outs):
        assert (a - b).abs().max() < 2e-2 * b.abs().max()


def choose(x, first, second, act, *wanted):
    return choose_mlp(x, dict(groups=first, act=act), second, *wanted)


def test_what_cannot_be_fused_is_plain_and_said_once(caplog, monkeypatch):
    monkeypatch.setattr(dispatch, '_said', set())
    x = torch.randn(2, 8, 3, 3)
    with caplog.at_level(logging.INFO, 'mmscheme'):
        for _ in range(2):
            assert choose(x, 1, 2, 'gelu') == 'plain'
            assert choose(x, 2, 2, None, 'chunked') == 'plain'
            assert choose(x, 2, 2, 'gelu', 'triton') == 'plain'
            assert choose(x.double(), 2, 2, 'gelu', 'native') == 'plain'
    assert [r.getMessage().split('not fused, ')[1] for r in caplog.records] == [
        'the two layers have 1 and 2 groups',
        'its activation is not one of gelu, silu, relu, star_relu',
        'Triton kernels need an NVIDIA GPU',
        'the native one does not take torch.float64 on cpu']
    monkeypatch.setattr(dispatch, 'FUSED', False)
    assert choose(x, 2, 2, 'gelu') == choose(x, 2, 2, 'gelu', 'native') == 'plain'
    monkeypatch.undo()
    assert choose(x, 2, 2, 'gelu') == 'native'
    assert choose(x.bfloat16(), 2, 2, 'gelu') == 'plain'
    assert choose(x, 2, 2, 'gelu', 'plain') == 'plain'
    with pytest.raises(ValueError, match=r"implementation: expected one of .*found 'fast'"):
        BlockDiagonalMLP(8, implementation='fast')


def test_hooks_and_replaced_parts_are_called():
    module, seen = BlockDiagonalMLP(8), []
    x = torch.randn(2, 8, 3, 3)
    expected = module(x)
    handle = module.act.register_forward_hook(lambda m, args, out: seen.append(out.shape))
    assert torch.allclose(module(x), expected, atol=1e-6) and seen == [(2, 64, 3, 3)]
    handle.remove()

    class Doubled(nn.GELU):

        def forward(self, h):
            return 2 * super().forward(h)

    module.act = Doubled()
    assert not torch.allclose(module(x), expected, atol=1e-2)
    module.act = nn.GELU(approximate='tanh')
    assert not torch.equal(module(x), expected)


def test_tracing_and_export_see_plain_operators():
    module = BlockDiagonalMLP(8).eval()
    x = torch.randn(1, 8, 4, 4)
    graph = str(torch.jit.trace(module, x).inlined_graph)
    exported = str(torch.export.export(module, (x, )).graph)
    assert 'mmscheme::' not in graph and 'mmscheme.' not in exported
    assert 'conv' in graph and 'conv' in exported


def test_autocast_keeps_out_what_computes_in_float32():
    """With the C++ mixer the FFN would not have autocast's dtype."""
    x = torch.randn(2, 8, 3, 3)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert choose(x, 2, 2, 'gelu') == 'chunked'
        assert choose(x, 2, 2, 'gelu', 'native') == 'plain'
        outs = [SCHEMEMixer(8, implementation=i)(x) for i in ('auto', 'native', 'plain')]
    assert len({out.dtype for out in outs}) == 1


@pytest.mark.parametrize('implementation', ['auto', 'chunked', 'batched', 'plain'])
def test_autocast_leaves_float64_alone(implementation):
    """As torch's own layers do."""
    torch.manual_seed(0)
    module = BlockDiagonalMLP(16, 64, implementation=implementation).double()
    x = torch.randn(2, 16, 7, 5, dtype=torch.float64)
    expected = module(x)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = module(x)
    assert found.dtype == torch.float64 and (found - expected).abs().max() < 1e-12
