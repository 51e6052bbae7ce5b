"""CCA and the SCHEME mixer against their definitions."""
import math

import pytest
import torch

from mmscheme.layers import ChannelCovarianceAttention, SCHEMEMixer
from tests.test_layers.reference import TOLERANCE, as_map, cca_by_loop, four_layouts


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('scaling', ['gram', 'covariance'])
@pytest.mark.parametrize('size', [(5, 7), (1, 1), (3, 4)])
def test_cca_equals_a_loop_over_channels(size, scaling, dtype):
    torch.manual_seed(0)
    x = torch.randn(2, 9, *size).to(dtype)
    tau = {'gram': (8 * 9)**-0.5, 'covariance': math.sqrt(9) / (size[0] * size[1])}[scaling]
    expected = cca_by_loop(x, tau)
    cca = ChannelCovarianceAttention(9, 8, scaling=scaling)
    for layout in four_layouts(x):
        out = cca(layout)
        assert out.dtype == dtype and out.shape == layout.shape
        assert (as_map(out, x).double() - expected).abs().max() < TOLERANCE[dtype]


def test_cca_has_the_right_gradient():
    torch.manual_seed(0)
    x = torch.randn(1, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    for scaling in ('gram', 'covariance'):
        assert torch.autograd.gradcheck(ChannelCovarianceAttention(4, 8, scaling=scaling), (x, ))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('scaling', ['gram', 'covariance'])
def test_cca_as_one_operator_has_the_gradient_of_the_plain_one(scaling, dtype):
    torch.manual_seed(0)
    fused, plain = (ChannelCovarianceAttention(9, 8, scaling=scaling, implementation=i)
                    for i in ('auto', 'plain'))
    x = torch.randn(2, 9, 5, 7).to(dtype)
    grad = torch.randn(2, 9, 5, 7).to(dtype)
    exact = x.double().requires_grad_()
    expected, = torch.autograd.grad(plain(exact), exact, grad.double())
    for layout, g in zip(four_layouts(x), four_layouts(grad)):
        layout = layout.detach().requires_grad_()
        found, = torch.autograd.grad(fused(layout), layout, g)
        assert (as_map(found, x) - expected).abs().max() < TOLERANCE[dtype] * max(
            1, expected.abs().max())


def test_cca_compiles_in_one_graph():
    torch.manual_seed(0)
    cca = ChannelCovarianceAttention(6)
    compiled = torch.compile(cca, fullgraph=True, backend='aot_eager')
    x = torch.randn(2, 6, 3, 5, requires_grad=True)
    for a, b in zip((cca(x), *torch.autograd.grad(cca(x).square().sum(), x)),
                    (compiled(x), *torch.autograd.grad(compiled(x).square().sum(), x))):
        assert torch.allclose(a, b, atol=1e-5)


def test_retired_cca_is_not_computed_until_weights_are_loaded():
    torch.manual_seed(0)
    mixer = SCHEMEMixer(16)
    state = {k: v.clone() for k, v in mixer.state_dict().items()}
    calls = []
    mixer.cca.register_forward_hook(lambda *args: calls.append(1))
    x = torch.randn(2, 16, 3, 5)
    before = mixer(x)
    mixer.retire_cca()
    assert torch.equal(mixer(x), mixer.ffn(x)) and mixer.alpha == 1 and len(calls) == 1
    mixer(x).sum().backward()
    assert mixer.alpha_logit.grad is not None  # DistributedDataParallel waits for it
    mixer.load_state_dict(state)
    assert torch.equal(mixer(x), before) and len(calls) == 2


@pytest.mark.parametrize('implementation', ['plain', 'auto'])
@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_gram_matrix_is_float32_in_half_precision(dtype, autocast, implementation):
    torch.manual_seed(0)
    # Entries of the Gram matrix near 4e5: beyond float16.
    x = 10 * torch.randn(1, 6, 64, 64)
    x[:, 1] = x[:, 0] + 0.01 * x[:, 1]
    x = x if autocast else x.to(dtype)
    rows = x.float().flatten(2)
    assert (rows @ rows.transpose(1, 2)).max() > torch.finfo(torch.float16).max
    tau, saved = 1e-4, []
    with torch.autocast('cpu', dtype=dtype, enabled=autocast), \
            torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        out = ChannelCovarianceAttention(6, 8, tau=tau, implementation=implementation)(
            x.requires_grad_())
    attention = next(t for t in saved if t.shape == (1, 6, 6))
    assert attention.dtype == torch.float32 and out.dtype == dtype and out.isfinite().all()
    # What is left is the rounding of the second product's operands.
    assert (out.double() - cca_by_loop(x, tau)).abs().max() < 0.02 * x.abs().max()


def test_covariance_does_not_depend_on_the_resolution():
    torch.manual_seed(0)
    x = torch.randn(1, 8, 4, 6)
    big = x.repeat(1, 1, 3, 2)
    covariance = ChannelCovarianceAttention(8, scaling='covariance')
    assert torch.allclose(covariance(x).repeat(1, 1, 3, 2), covariance(big), atol=1e-5)
    gram = ChannelCovarianceAttention(8, scaling='gram')
    assert not torch.allclose(gram(x).repeat(1, 1, 3, 2), gram(big), atol=1e-2)


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('factor', [1, 0.3, 0])
def test_mixer_equals_its_definition(factor, dtype):
    torch.manual_seed(0)
    mixer = SCHEMEMixer(12, 96, groups=(4, 3)).to(dtype)
    with torch.no_grad():
        mixer.alpha_logit.fill_(0.4)
    mixer.lower_cca_factor(factor)
    alpha = 1 - factor * (1 - 1 / (1 + math.exp(-0.4)))
    x = torch.randn(2, 12, 5, 3).to(dtype)
    ffn, cca = mixer.ffn(x).double(), cca_by_loop(x, (8 * 12)**-0.5)
    for layout in four_layouts(x):
        mixer.train()
        out = as_map(mixer(layout), x).double()
        assert (out - (alpha * ffn + (1 - alpha) * cca)).abs().max() < TOLERANCE[dtype]
        mixer.eval()
        assert (as_map(mixer(layout), x).double() - alpha * ffn).abs().max() < TOLERANCE[dtype]
    mixer.keep_cca = True
    kept = mixer(x)
    assert torch.equal(kept, mixer.train()(x))


def test_training_and_evaluation_agree_at_the_end_of_the_schedule():
    torch.manual_seed(0)
    mixer = SCHEMEMixer(16).double()
    x = torch.randn(2, 16, 3, 5, dtype=torch.float64)
    assert not torch.allclose(mixer.train()(x), mixer.eval()(x))
    mixer.lower_cca_factor(0)
    assert torch.equal(mixer.train()(x), mixer.eval()(x))


def test_without_cca_it_is_the_ffn_alone():
    torch.manual_seed(0)
    mixer = SCHEMEMixer(16, cca=False)
    x = torch.randn(2, 16, 3, 5)
    assert torch.equal(mixer(x), mixer.ffn(x)) and mixer.alpha == 1
    assert not [name for name, _ in mixer.named_parameters() if 'alpha' in name]
    with pytest.raises(ValueError, match='without CCA'):
        mixer.lower_cca_factor(0.5)


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    mixer = SCHEMEMixer(16)
    mixer(torch.randn(2, 16, 3, 5)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in mixer.parameters())


def test_the_factor_is_in_the_checkpoint():
    mixer = SCHEMEMixer(16)
    mixer.lower_cca_factor(0.25)
    mixer.lower_cca_factor(0.5)  # it never rises
    other = SCHEMEMixer(16)
    other.load_state_dict(mixer.state_dict())
    assert other.alpha == mixer.alpha == 1 - 0.25 * 0.5


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"scaling: expected .*'covariance', 'gram'.* 'gramm'"):
        ChannelCovarianceAttention(8, scaling='gramm')
    with pytest.raises(ValueError, match=r'limit: expected a number in \[0, 1\], found 2'):
        SCHEMEMixer(8).lower_cca_factor(2)
    with pytest.raises(ValueError, match=r'tokens \(B, N, C\)'):
        ChannelCovarianceAttention(8)(torch.zeros(3, 8))


def test_a_branch_that_was_taken_out_stays_out_of_loaded_weights():
    mixer, other = SCHEMEMixer(8), SCHEMEMixer(8)
    mixer.retire_cca()
    other.load_state_dict(mixer.state_dict())
    assert other.cca_retired
    other.load_state_dict(SCHEMEMixer(8).state_dict())
    assert not other.cca_retired


@pytest.mark.parametrize('alpha', [0.03, 0.5, 0.9])
def test_initial_alpha(alpha):
    mixer = SCHEMEMixer(8, alpha_init=alpha)
    assert float(mixer.alpha) == pytest.approx(alpha, abs=1e-6)
    x = torch.randn(2, 8, 3, 5)
    expected = alpha * mixer.ffn(x) + (1 - alpha) * mixer.cca(x)
    assert torch.allclose(mixer.train()(x), expected, atol=1e-6)


@pytest.mark.parametrize('alpha', [0, 1, -1, 2, math.nan])
def test_initial_alpha_is_a_weight(alpha):
    with pytest.raises(ValueError, match='alpha_init: expected a number between 0 and 1, found'):
        SCHEMEMixer(8, alpha_init=alpha)
