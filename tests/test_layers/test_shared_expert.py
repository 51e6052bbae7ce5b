"""Shared-expert FFNs against loops over tokens and experts."""
import math

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from mmscheme.layers import SharedExpertFFN, auxiliary_losses
from tests.test_layers.reference import TOLERANCE, as_map, four_layouts


def experts(dtype=torch.float32, **options):
    """A layer whose gate has preferences."""
    torch.manual_seed(0)
    layer = SharedExpertFFN(6, 5, **options)
    with torch.no_grad():
        for p in (*layer.gate.parameters(), *layer.noise.parameters(), layer.w1.bias,
                  layer.v.bias, layer.w2.bias):
            p.normal_()
    return layer.to(dtype)


def silu(value):
    return value / (1 + math.exp(-value))


def softmax(values):
    exps = [math.exp(v) for v in values]
    return [e / sum(exps) for e in exps]


def matrix(layer):
    return layer.weight.double().tolist()


def times(weight, vector):
    return [sum(w * v for w, v in zip(row, vector)) for row in weight]


def ffn_by_loop(layer, token):
    """The definition, each expert with a second layer of its own, for one token."""
    w1, v, w2 = (matrix(part) for part in (layer.w1, layer.v, layer.w2))
    b1, bv, b2 = (part.bias.double().tolist() for part in (layer.w1, layer.v, layer.w2))
    hidden = len(v)
    logits = times(matrix(layer.gate), token)
    chosen = sorted(range(len(logits)), key=lambda k: -logits[k])[:layer.top_k]
    values = [a + b for a, b in zip(times(v, token), bv)]
    y = list(b2)
    for k, gate in zip(chosen, softmax([logits[k] for k in chosen])):
        rows = slice(k * hidden, (k + 1) * hidden)
        inside = [silu(a + b) * value
                  for a, b, value in zip(times(w1[rows], token), b1[rows], values)]
        y = [a + gate * b for a, b in zip(y, times(w2, inside))]
    return y


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('size, options', [((5, 7), {}), ((1, 1), dict(num_experts=3)), (
    (2, 3), dict(num_experts=5, top_k=3))])
def test_equals_its_definition(size, options, dtype):
    layer = experts(dtype, **options).eval()
    x = torch.randn(2, 6, *size).to(dtype)
    expected = torch.tensor([ffn_by_loop(layer, token)
                             for token in x.double().permute(0, 2, 3, 1).flatten(0, 2).tolist()],
                            dtype=torch.float64).view(2, *size, 6).permute(0, 3, 1, 2)
    for layer.gathered in (False, True):
        for layout in four_layouts(x):
            out = layer(layout)
            assert out.shape == layout.shape and out.dtype == dtype
            assert (as_map(out, x) - expected).abs().max() < 4 * TOLERANCE[dtype]


def test_gathered_equals_dense():
    layer, x = experts(), torch.randn(2, 35, 6, requires_grad=True)
    results = []
    for layer.gathered in (False, True):
        torch.manual_seed(3)
        with auxiliary_losses(layer) as losses:
            y = layer(x)
        total = y.square().sum() + sum(losses.values())
        results.append([y, *losses.values(),
                        *torch.autograd.grad(total, [x, *layer.parameters()])])
    for a, b in zip(*results):
        assert (a - b).abs().max() < 1e-6 * max(1, a.abs().max())


def losses_by_loop(layer, tokens, noise):
    """Importance and load loss of arXiv 1701.06538, appendix A."""
    count = layer.num_experts
    importance, load = [0.] * count, [0.] * count
    for token, drawn in zip(tokens.double().tolist(), noise.double().tolist()):
        clean = times(matrix(layer.gate), token)
        std = [math.log1p(math.exp(s)) + 1e-2 for s in times(matrix(layer.noise), token)]
        noisy = [c + n * s for c, n, s in zip(clean, drawn, std)]
        chosen = sorted(range(count), key=lambda k: -noisy[k])[:layer.top_k]
        for k, gate in zip(chosen, softmax([noisy[k] for k in chosen])):
            importance[k] += gate
        for k in range(count):
            others = sorted((noisy[j] for j in range(count) if j != k), reverse=True)
            distance = (clean[k] - others[layer.top_k - 1]) / std[k]
            load[k] += (1 + math.erf(distance / math.sqrt(2))) / 2

    def variation(values):
        mean = sum(values) / count
        return sum((v - mean)**2 for v in values) / count / mean**2

    return [weight * variation(sums) for weight, sums in (
        (layer.importance_weight, importance), (layer.load_weight, load))]


@pytest.mark.parametrize('options', [{}, dict(num_experts=5, top_k=3, importance_weight=0.5)])
def test_losses_equal_their_definition(options):
    layer, x = experts(**options), torch.randn(3, 7, 6)
    torch.manual_seed(5)
    with auxiliary_losses(layer) as losses:
        layer(x)
    torch.manual_seed(5)
    noise = torch.randn(3, 7, layer.num_experts)
    expected = losses_by_loop(layer, x.flatten(0, 1), noise.flatten(0, 1))
    assert list(losses) == ['loss_importance', 'loss_load']
    assert [float(v) for v in losses.values()] == pytest.approx(expected, rel=1e-4)


def test_every_parameter_gets_a_gradient_from_the_first_step_on():
    torch.manual_seed(0)
    layer = SharedExpertFFN(6)
    for part in (lambda y, losses: y.square().sum(), lambda y, losses: losses['loss_load']):
        layer.zero_grad()
        with auxiliary_losses(layer) as losses:
            y = layer(torch.randn(2, 9, 6))
        part(y, losses).backward()
        for gate in (layer.gate, layer.noise):
            assert gate.weight.grad.any()
    layer(torch.randn(2, 30, 6)).square().sum().backward()
    assert all(p.grad.any() for p in layer.parameters())


def test_choices_follow_the_seed_in_training_and_have_no_noise_in_evaluation():
    layer, x = experts(), torch.randn(2, 50, 6)

    def chosen(seed):
        torch.manual_seed(seed)
        return layer._route(x)[0] > 0

    assert chosen(1).equal(chosen(1)) and not chosen(1).equal(chosen(2))
    assert (chosen(1).sum(-1) == 2).all()
    layer.eval()
    assert chosen(1).equal(chosen(2))
    best = torch.zeros(2, 50, 4).scatter(-1, layer.gate(x).topk(2).indices, 1.) > 0
    assert chosen(1).equal(best)
    state = torch.get_rng_state()
    layer(x)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize('reentrant', [False, True])
def test_losses_under_gradient_checkpointing(reentrant):
    """Layers whose losses, with a scale, are a part of a larger one; one is called twice."""
    layers, x = torch.nn.ModuleList([experts(), experts(), experts()]), torch.randn(2, 20, 6)
    results = []
    for saving in (False, True):
        for step in range(2):
            layers.zero_grad()
            torch.manual_seed(step)
            y = x.clone().requires_grad_()
            with auxiliary_losses(layers) as losses:
                for layer in (*layers, layers[1]):
                    y = y + (checkpoint(layer, y, use_reentrant=reentrant) if saving else layer(y))
            total = y.square().mean() + 50 * losses['loss_load'] + losses['loss_importance'].mean()
            (8 * total).backward()
            results.append([losses['loss_load'], *(p.grad.clone() for p in layers.parameters())])
            assert all(layer.losses is None for layer in layers)
    for plain, saved in zip(results[:2], results[2:]):
        assert all(torch.allclose(a, b, atol=1e-5, rtol=1e-4) for a, b in zip(plain, saved))
    assert not torch.allclose(results[0][1], results[1][1])


def test_losses_are_float32_under_autocast_and_sum_over_layers_and_calls():
    layers = torch.nn.Sequential(experts(), experts())
    x = torch.randn(2, 20, 6)
    with torch.autocast('cpu', torch.bfloat16), auxiliary_losses(layers) as losses:
        assert layers[0](x).dtype == torch.bfloat16
        torch.manual_seed(0)
        layers(x)
    assert {v.dtype for v in losses.values()} == {torch.float32}
    single = []
    for _ in range(2):
        with auxiliary_losses(layers[0]) as found:
            torch.manual_seed(0)
            layers[0](x)
        single.append(float(found['loss_load']))
    assert single[0] == single[1] and float(losses['loss_load']) > 2 * single[0]
    with auxiliary_losses(layers.eval()) as losses:
        layers(x)
    assert losses == {}


def test_losses_that_nobody_takes_are_warned_of_once(recwarn):
    layer, x = SharedExpertFFN(6), torch.randn(1, 3, 6)
    for _ in range(2):
        layer(x)
    assert [str(w.message) for w in recwarn if 'AuxiliaryLossHook' in str(w.message)
            and 'SharedExpertFFN' in str(w.message)].__len__() == 1
    recwarn.clear()
    taken, none = SharedExpertFFN(6), SharedExpertFFN(6, importance_weight=0, load_weight=0)
    with auxiliary_losses(taken):
        taken(x)
    for quiet in (taken, none, SharedExpertFFN(6).eval()):
        quiet(x)
    assert not [w for w in recwarn if 'SharedExpertFFN' in str(w.message)]


@pytest.mark.parametrize('gathered', [False, True])
def test_exports_and_compiles(gathered):
    layer, x = experts(gathered=gathered).eval(), torch.randn(2, 6, 3, 5)
    with torch.no_grad():
        exported = torch.export.export(layer, (x, )).module()
        assert torch.allclose(exported(x), layer(x), atol=1e-5)
        if not gathered:
            compiled = torch.compile(layer, fullgraph=True, backend='eager')
            assert torch.allclose(compiled(x), layer(x), atol=1e-5)


@pytest.mark.parametrize('options', [
    dict(num_experts=2), dict(top_k=0), dict(num_experts=3, top_k=3), dict(load_weight=-1),
    dict(importance_weight=math.nan), dict(drop=2), dict(hidden_dims=0)])
def test_wrong_arguments_are_named(options):
    with pytest.raises(ValueError, match=f'{next(iter(options))}: expected'):
        SharedExpertFFN(6, **options)
    with pytest.raises(TypeError, match='gathered: expected True or False'):
        SharedExpertFFN(6, gathered='yes')
    with pytest.raises(ValueError, match='expected 6 channels'):
        SharedExpertFFN(6)(torch.zeros(2, 5, 3))
