"""Dense guides, guides that are sampled, and interleaved groups, against dense matrices."""
import pytest
import torch
from torch.utils.checkpoint import checkpoint

from mmscheme.layers import DenseGuide, SCHEMEMixer
from tests.test_layers.reference import TOLERANCE, as_map, cca_by_loop, four_layouts


def dense(layer):
    """The dense matrix of a block-diagonal layer in float64, one weight at a time."""
    rows, columns = layer.out_features // layer.groups, layer.in_features // layer.groups
    matrix = torch.zeros(layer.out_features, layer.in_features, dtype=torch.float64)
    for i in range(layer.out_features):
        for j in range(columns):
            matrix[i, i // rows * columns + j] = layer.weight[i, j].detach()
    return matrix


def ffn_by_matrix(x, ffn, w1, w2):
    """The FFN with other weights, on a map in float64."""
    tokens = x.double().flatten(2).mT
    hidden = torch.nn.functional.gelu(tokens @ w1.T + ffn.fc1.bias.double())
    return (hidden @ w2.T + ffn.fc2.bias.double()).mT.reshape(x.shape).detach()


def guided(groups=(4, 3), dtype=torch.float32, start=False, **options):
    torch.manual_seed(0)
    mixer = SCHEMEMixer(12, 24, groups, guide='dense', **options).to(dtype)
    with torch.no_grad():
        for p in (*mixer.guide.parameters(), mixer.ffn.fc1.bias, mixer.ffn.fc2.bias):
            if not start:
                p.normal_(std=0.3)
    return mixer


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('share', [1, 0.3])
def test_dense_guide_equals_its_definition(share, dtype):
    mixer = guided(dtype=dtype)
    mixer.lower_cca_factor(share)
    x = torch.randn(2, 12, 5, 7).to(dtype)
    w1, w2 = (share * w.detach().double() + (1 - share) * dense(fc) for w, fc in (
        (mixer.guide.weight1, mixer.ffn.fc1), (mixer.guide.weight2, mixer.ffn.fc2)))
    guided_y = ffn_by_matrix(x, mixer.ffn, w1, w2)
    alone = ffn_by_matrix(x, mixer.ffn, dense(mixer.ffn.fc1), dense(mixer.ffn.fc2))
    for layout in four_layouts(x):
        for training, expected in ((True, guided_y), (False, alone)):
            out = mixer.train(training)(layout)
            assert out.shape == layout.shape and out.dtype == dtype
            assert (as_map(out, x).double() - expected).abs().max() < 4 * TOLERANCE[dtype]
    mixer.keep_cca = True
    assert torch.equal(mixer(x), mixer.train()(x))


@pytest.mark.parametrize('groups', [(4, 3), (1, 1)])
def test_dense_guide_starts_as_the_blocks(groups):
    mixer, x = guided(groups, torch.float64, start=True), torch.randn(2, 12, 3, 5).double()
    assert torch.equal(mixer.guide.weight1, dense(mixer.ffn.fc1))
    for share in (1, 0.4):
        mixer.lower_cca_factor(share)
        assert (mixer.train()(x) - mixer.ffn(x)).abs().max() < 1e-12
    # Weights without a guide bring its start, those with one the guide itself.
    plain = SCHEMEMixer(12, 24, groups, cca=False).double()
    missing, unexpected = mixer.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and missing == ['cca_factor']
    assert torch.allclose(mixer.train()(x), plain(x), atol=1e-12, rtol=0)
    trained = guided(groups, torch.float64)
    mixer.load_state_dict(trained.state_dict())
    assert torch.equal(mixer.guide.weight2, trained.guide.weight2)


def test_every_parameter_gets_a_gradient_and_zero_once_the_guide_has_left():
    mixer, x = guided(), torch.randn(2, 12, 3, 5)
    mixer.lower_cca_factor(0.5)
    mixer(x).square().sum().backward()
    assert all(p.grad.any() for p in mixer.parameters())
    mixer.zero_grad()
    mixer.lower_cca_factor(0)
    assert mixer.cca_retired and torch.equal(mixer(x), mixer.eval()(x))
    calls = []
    mixer.guide.register_forward_hook(lambda *args: calls.append(1))
    mixer.train()(x).square().sum().backward()
    # DistributedDataParallel waits for these.
    assert all(p.grad is not None and not p.grad.any() for p in mixer.guide.parameters())
    assert not calls and all(p.grad.any() for p in mixer.ffn.parameters())
    assert mixer.alpha == 1 and [n for n, _ in mixer.named_parameters() if 'alpha' in n] == []


@pytest.mark.parametrize('guide', ['dense', 'cca'])
def test_a_sampled_guide_is_computed_in_its_share_of_the_steps(guide):
    torch.manual_seed(0)
    mixer, x = SCHEMEMixer(8, guide=guide, sample_guide=True), torch.randn(1, 8, 3, 3)
    if guide == 'dense':
        torch.nn.init.normal_(mixer.guide.weight1)
    mixer.lower_cca_factor(0.3)

    def steps(count):
        torch.manual_seed(1)
        with torch.no_grad():
            alone = mixer.eval()(x)
            mixer.train()
            outs = [mixer(x) for _ in range(count)]
        return [not torch.allclose(out, alone, atol=1e-6) for out in outs], outs

    with_guide, outs = steps(400)
    assert 0.2 < sum(with_guide) / 400 < 0.4
    assert steps(20)[0] == with_guide[:20]
    mixer.sample_guide = False
    full = next(out for out, is_guided in zip(outs, with_guide) if is_guided)
    assert torch.allclose(full, mixer(x), atol=1e-6)
    assert torch.equal(mixer.eval()(x), mixer(x))
    mixer.sample_guide = True
    # The backward pass of a checkpoint draws the same again.
    inputs = x.requires_grad_()
    for seed in range(6):
        torch.manual_seed(seed)
        expected, = torch.autograd.grad(mixer.train()(inputs).square().sum(), inputs)
        torch.manual_seed(seed)
        out = checkpoint(mixer, inputs, use_reentrant=False)
        assert torch.allclose(torch.autograd.grad(out.square().sum(), inputs)[0], expected)


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('guide', ['cca', 'dense', None])
def test_interleaved_groups_are_those_of_every_fourth_channel(guide, dtype):
    torch.manual_seed(0)
    mixer = SCHEMEMixer(12, 24, 4, guide=guide, interleave=True).to(dtype)
    x = torch.randn(2, 12, 5, 3).to(dtype)
    # Position i of group k is channel 4 * i + k: the first group has 0, 4 and 8.
    order = [4 * i + k for k in range(4) for i in range(3)]
    w1, w2 = torch.zeros(24, 12).double(), torch.zeros(12, 24).double()
    w1[:, order], w2[order] = dense(mixer.ffn.fc1), dense(mixer.ffn.fc2)
    alone = ffn_by_matrix(x, mixer.ffn, w1, w2)
    assert w1[0].nonzero().flatten().tolist() == [0, 4, 8]
    expected = (alone + cca_by_loop(x, (2 * 12)**-0.5)) / 2 if guide == 'cca' else alone
    for layout in four_layouts(x):
        assert (as_map(mixer.train()(layout), x) - expected).abs().max() < TOLERANCE[dtype]
        out = as_map(mixer.eval()(layout), x)
        assert (out - (alone / 2 if guide == 'cca' else alone)).abs().max() < TOLERANCE[dtype]


def test_interleaved_weights_fit_no_other_order():
    mixer = SCHEMEMixer(8, interleave=True)
    with pytest.raises(RuntimeError, match='interleave'):
        SCHEMEMixer(8).load_state_dict(mixer.state_dict())
    with pytest.raises(RuntimeError, match='interleave'):
        mixer.load_state_dict(SCHEMEMixer(8).state_dict())


def test_guides_and_their_names():
    assert isinstance(SCHEMEMixer(8, guide='dense', cca=False).guide, DenseGuide)
    assert SCHEMEMixer(8, cca=False).guide is SCHEMEMixer(8, guide=None).guide is None
    assert SCHEMEMixer(8).guide is SCHEMEMixer(8).cca or SCHEMEMixer(8).cca is not None
    for option in (dict(guide='densse'), dict(guide=True)):
        with pytest.raises(ValueError, match='guide: expected one of'):
            SCHEMEMixer(8, **option)
    for option in ('sample_guide', 'interleave', 'cca'):
        with pytest.raises(TypeError, match=f'{option}: expected True or False'):
            SCHEMEMixer(8, **{option: 'no'})
