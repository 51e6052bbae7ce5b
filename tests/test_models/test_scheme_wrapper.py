"""SCHEME in stock backbones, against the stock backbones."""

import pytest
import torch

from tests.test_models.stock_backbones import (
    BACKBONES,
    build,
    excite,
    mixers,
    run,
    wrap,
)


def rebuilt(stock):
    """What a stock backbone does not take from its own state dict, but computes."""
    return stock.load_state_dict(stock.state_dict(), strict=False).missing_keys


@pytest.fixture(params=BACKBONES)
def case(request):
    cfg, number, keys = BACKBONES[request.param]
    if 'timm' in request.param:
        pytest.importorskip('timm')
    return cfg, number, keys


def test_wrapped_backbone(case):
    cfg, number, keys = case
    stock = build(cfg)
    wrapped = wrap(cfg, groups='auto')
    assert type(wrapped) is type(stock)
    own = mixers(wrapped)
    assert len(own) == number

    # Nothing else changed.
    before, after = stock.state_dict(), wrapped.state_dict()
    new = {key for key in after if key.startswith(tuple(f'{name}.' for name in own))}
    rest = set(after) - new
    assert rest < set(before) and len(before) == len(rest) + number * keys
    assert all(before[key].shape == after[key].shape for key in rest)
    missing = wrapped.load_state_dict(before, strict=False).missing_keys
    # Batch norms count from 0 where a checkpoint has no count.
    assert set(missing) == {key for key in new | set(rebuilt(stock))
                            if not key.endswith('num_batches_tracked')}
    assert all(before[key].equal(value) for key, value in wrapped.state_dict().items()
               if key in rest)

    # Every parameter gets a gradient, or got none before.
    for model in (stock, wrapped):
        model.init_weights()
        model.train()
        excite(model)
        for module in model.modules():
            if hasattr(module, 'drop_prob'):
                module.drop_prob = 0.  # drop path would leave out whole branches
    shapes = [out.shape for out in run(stock)]
    outputs = run(wrapped)
    assert [out.shape for out in outputs] == shapes
    torch.manual_seed(3)
    sum((out * torch.randn_like(out)).sum() for out in outputs).backward()
    sum(out.square().sum() for out in run(stock)).backward()
    unused = {key for key, p in stock.named_parameters() if p.grad is None}
    assert {key for key, p in wrapped.named_parameters() if p.grad is None} <= unused
    assert all(p.grad.abs().sum() > 0 for mixer in own.values() for p in mixer.parameters())

    wrapped.eval()
    with torch.no_grad():
        assert all(a.equal(b) for a, b in zip(run(wrapped, 4), run(wrapped, 5)))


def test_dense_and_with_copied_weights_it_is_the_stock_backbone(case):
    cfg, number, _ = case
    stock = build(cfg)
    stock.init_weights()
    excite(stock)
    wrapped = wrap(cfg, 1, groups=(1, 1), expansion=None, cca=False, seed_from_dense=True)
    assert len(mixers(wrapped)) == number
    with torch.no_grad():
        stock.eval(), wrapped.eval()
        expected = run(stock)
        assert any((a - b).abs().max() > 1e-3 for a, b in zip(run(wrapped), expected))
        missing = wrapped.load_state_dict(stock.state_dict(), strict=False).missing_keys
        assert missing == rebuilt(stock)
        for a, b in zip(run(wrapped), expected):
            assert (a - b).abs().max() < 1e-5 * max(1, b.abs().max())
        # Dropout and drop path draw the same random numbers in the same places.
        stock.train(), wrapped.train()
        for a, b in zip(run(wrapped, 4), run(stock, 4)):
            assert (a - b).abs().max() < 1e-5 * max(1, b.abs().max())
