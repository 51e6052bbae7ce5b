"""Second derivatives, torch.func and the meta device, from every place that takes the options."""
import pytest
import torch
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmscheme.models import SCHEMEFFN, BlockDiagonalFFN, SCHEMEformer
from tests.test_models.stock_backbones import BACKBONES, flat, wrap

SWIN = dict(BACKBONES['mmseg Swin'][0], drop_rate=0., drop_path_rate=0.)
TINY = dict(depths=(1, 1, 1, 1), embed_dims=(8, 16, 32, 64))
IMAGES = (2, 3, 64, 64)
BUILD = {
    'SCHEMEformer': (lambda **options: SCHEMEformer(TINY, **options), IMAGES),
    'SCHEMEFFN': (lambda **options: SCHEMEFFN(8, 32, **options), (2, 5, 8)),
    'BlockDiagonalFFN': (lambda **options: BlockDiagonalFFN(8, 32, **options), (2, 5, 8)),
    'SCHEMEWrapper': (lambda **options: wrap(SWIN, **options), IMAGES),
}


@pytest.fixture(params=BUILD)
def case(request):
    build, shape = BUILD[request.param]
    torch.manual_seed(0)
    return build, torch.randn(shape)


def loss(model, x):
    return sum(out.sin().sum() for out in flat(model(x)))


def test_second_derivatives(case):
    build, x = case
    model, x = build(implementation='plain').double(), x.double().requires_grad_()
    direction = torch.randn_like(x)
    with sdpa_kernel(SDPBackend.MATH):  # the other attentions of torch have none
        first, = torch.autograd.grad(loss(model, x), x, create_graph=True)
        second, = torch.autograd.grad((first * direction).sum(), x)
        sides = []
        for step in (1e-5, -1e-5):
            y = (x + step * direction).detach().requires_grad_()
            sides.append(torch.autograd.grad(loss(model, y), y)[0])
    difference = (sides[0] - sides[1]) / 2e-5
    assert (second - difference).abs().max() < 1e-4 * difference.abs().max()
    model, x = build(), x.detach().float().requires_grad_()
    first, = torch.autograd.grad(loss(model, x), x, create_graph=True)
    with pytest.raises(RuntimeError, match='mmscheme|not implemented'):
        first.sum().backward()


@pytest.mark.parametrize('implementation', ['plain', 'auto'])
def test_grad_of_torch_func(case, implementation):
    build, x = case
    model = build(implementation=implementation)
    parameters = dict(model.named_parameters())
    found = grad(lambda p: loss(lambda y: functional_call(model, p, (y, )), x))(parameters)
    loss(model, x).backward()
    for name, p in parameters.items():
        if p.grad is not None:
            assert (found[name] - p.grad).abs().max() <= 1e-3 * p.grad.abs().max() + 1e-5, name


def test_vmap(case):
    build, x = case
    model = build()
    model.eval()
    with torch.no_grad():
        found = vmap(lambda sample: flat(model(sample[None])))(x)
        for a, b in zip(found, flat(model(x))):
            assert (a[:, 0] - b).abs().max() < 1e-4 * b.abs().max()


@pytest.mark.parametrize('implementation', ['plain', 'auto'])
def test_training_on_the_meta_device(case, implementation):
    build, x = case
    model = build(implementation=implementation)
    shapes = [out.shape for out in flat(model(x))]
    model.to('meta').train()
    outs = flat(model(x.to('meta')))
    assert [out.shape for out in outs] == shapes and all(out.is_meta for out in outs)
    sum(out.sum() for out in outs).backward()
