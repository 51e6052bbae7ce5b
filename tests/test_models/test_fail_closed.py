"""The wrapper replaces nothing by guess and bypasses nothing in silence."""
import pytest
import torch
from torch import nn

from mmscheme.models import SCHEMEWrapper
from mmscheme.models.backbones import scheme_wrapper
from mmscheme.models.utils import ADAPTERS, Adapter, find_channel_mixers
from mmscheme.models.utils.dense_mixers import describe_unknown, find_dense_pairs
from mmscheme.models.utils.trial import try_backbone
from tests.test_layers.changes import CHANGES
from tests.test_models.stock_backbones import BACKBONES, build, excite, flat, mixers, wrap


class Mlp(nn.Module):
    """An FFN that no adapter knows."""

    def __init__(self, width=16):
        super().__init__()
        self.up, self.act, self.down = nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width)

    def forward(self, x):
        return self.down(self.act(self.up(x)))


class Block(nn.Module):

    def __init__(self):
        super().__init__()
        self.qkv, self.ffn = nn.Linear(16, 48), Mlp()

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        x = x + (q @ k.mT).softmax(-1) @ v
        return x + self.ffn(x)


class ToyViT(nn.Module):
    """Tokens of patches with a summary token, which no attribute counts, at one end."""

    def __init__(self, first=True, table=False):
        super().__init__()
        self.first = first
        self.patches = nn.Conv2d(3, 16, 16, 16)
        self.summary = nn.Parameter(torch.randn(1, 2, 16))
        self.blocks = nn.ModuleList([Block(), Block()])
        self.table = Mlp() if table else None  # of coordinates
        self.register_buffer('coordinates', torch.randn(4, 16))

    def forward(self, x):
        x = self.patches(x).flatten(2).mT
        summary = self.summary.expand(len(x), -1, -1)
        x = torch.cat([summary, x] if self.first else [x, summary], 1)
        for block in self.blocks:
            x = block(x)
        return x if self.table is None else x + self.table(self.coordinates).sum()


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(ADAPTERS, f'{__name__}.{Mlp.__qualname__}', Adapter(('up', 'act', 'down')))
    torch.manual_seed(0)
    return ToyViT


def gram(cca, tokens):
    rows = tokens[:, cca.num_extra_tokens:]
    return rows.mT @ rows


def test_class_tokens_are_found_by_the_trial(toy):
    model = SCHEMEWrapper(toy())
    assert [m.cca.num_extra_tokens for m in mixers(model).values()] == [2, 2]
    for mixer in mixers(model).values():
        tokens = torch.randn(2, 18, 16)
        other = torch.cat([torch.randn(2, 2, 16), tokens[:, 2:]], 1)
        assert gram(mixer.cca, tokens).equal(gram(mixer.cca, other))
        assert mixer.train()(tokens)[:, 2:].equal(mixer(other)[:, 2:])


def test_class_tokens_declared_by_the_adapter(toy, monkeypatch):
    monkeypatch.setitem(ADAPTERS, f'{__name__}.{Mlp.__qualname__}',
                        Adapter(('up', 'act', 'down'), extra_tokens=5))
    assert {m.cca.num_extra_tokens for m in mixers(SCHEMEWrapper(toy())).values()} == {5}


def test_what_cannot_be_told_is_refused(toy):
    with pytest.raises(ValueError, match=r'^extra_tokens: blocks.0.ffn of ToyViT'):
        SCHEMEWrapper(toy(first=False))
    assert all(m.cca is None for m in mixers(SCHEMEWrapper(toy(first=False), cca=False)).values())
    assert mixers(SCHEMEWrapper(toy(first=False), extra_tokens=1)
                  )['blocks.0.ffn'].cca.num_extra_tokens == 1
    with torch.device('meta'), pytest.raises(ValueError, match='extra_tokens: .* meta device'):
        SCHEMEWrapper(toy())


def test_what_the_image_does_not_reach_stays(toy):
    model = SCHEMEWrapper(toy(table=True), strict=True)
    assert set(mixers(model)) == {'blocks.0.ffn', 'blocks.1.ffn'} and type(model.table) is Mlp


def test_the_trial_changes_nothing(toy):
    model = toy().train()
    state, rng = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    assert not try_backbone(model, ['blocks.0.ffn']).problem
    assert model.training and rng.equal(torch.get_rng_state())
    assert all(v.equal(state[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_what_stays_dense_is_said_by_name(toy, monkeypatch):
    class Other(Mlp):

        def forward(self, x):
            return 2 * super().forward(x)

    lines = []
    monkeypatch.setattr(scheme_wrapper, 'print_log', lambda text, **_: lines.append(text))
    model = toy()
    model.blocks[1].ffn = Other()
    SCHEMEWrapper(model)
    line, = (text for text in lines if 'stay dense' in text)
    assert ' stay dense: blocks.1.ffn; ' in line
    model = toy()
    model.blocks[1].ffn = Other()
    with pytest.raises(ValueError, match='^strict: .*blocks.1.ffn'):
        SCHEMEWrapper(model, strict=True)


@pytest.mark.parametrize('name', BACKBONES)
def test_adapters_cover_what_the_detector_finds(name):
    if 'timm' in name:
        pytest.importorskip('timm')
    stock = build(BACKBONES[name][0])
    dense = {d.name.removesuffix('.layers') for d in find_channel_mixers(stock)}
    pairs = {holder.removesuffix('.layers') for holder in find_dense_pairs(stock).values()}
    computed = {p for p in pairs if p.endswith('cpb_mlp')}  # Swin v2's, of coordinates
    assert dense == pairs - computed


@pytest.mark.parametrize('name, words', [
    ('vitamin_small_224', ['timm.models.vitamin.GeGluMlp', 'gated', 'timm.layers.mlp.GluMlp',
                           'ADAPTERS']),
    ('levit_128s', ['timm.models.levit.LevitMlp', 'nearest', 'ADAPTERS']),
    ('efficientformerv2_s0', ['none of its modules'])])
def test_what_is_not_known_is_said_with_the_nearest_family(name, words):
    timm = pytest.importorskip('timm')
    with pytest.raises(ValueError, match='^backbone: ') as error:
        SCHEMEWrapper(timm.create_model(name))
    assert all(word in str(error.value) for word in words) and '\n' not in str(error.value)
    assert 'vitamin' in name or 'gated' not in str(error.value)


def test_the_nearest_family_has_the_same_parts():
    class Tokens(nn.Module):

        def __init__(self):
            super().__init__()
            self.fc1, self.act, self.fc2 = nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8)
            self.dwconv = nn.Conv2d(32, 32, 3, groups=32)

    text = describe_unknown(nn.Sequential(Tokens()), {'0.fc1': '0'})
    assert 'Tokens has no adapter' in text
    assert any(family in text for family in ('mscan.Mlp', 'van.MixFFN', 'MlpWithDepthwiseConv'))


@pytest.mark.parametrize('name, arguments, number', [
    ('crossvit_9_240', {}, None), ('pit_ti_224', {}, None), ('coat_lite_tiny', {}, None),
    ('efficientformer_l1', {}, 15), ('maxvit_rmlp_pico_rw_256', {}, None)])
@pytest.mark.slow
def test_more_families_of_timm(name, arguments, number):
    timm = pytest.importorskip('timm')
    model = SCHEMEWrapper(timm.create_model(name, **arguments), groups='auto')
    own = mixers(model)
    assert number in (None, len(own)) and not any('rel_pos' in key for key in own)


@pytest.mark.parametrize('cfg, number', [
    (dict(type='mmpretrain.EfficientFormer', arch='l1'), 15),
    (dict(type='mmpretrain.TIMMBackbone', model_name='efficientformer_l1'), 15)])
@pytest.mark.slow
def test_families_for_one_size(cfg, number):
    if 'TIMM' in cfg['type']:
        pytest.importorskip('timm')
    stock = build(cfg)
    wrapped = wrap(cfg, 1, groups=(1, 1), expansion=None, cca=False, seed_from_dense=True,
                   strict=True)
    stock.eval(), wrapped.eval()
    excite(stock)
    wrapped.load_state_dict(stock.state_dict(), strict=False)
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        for a, b in zip(flat(wrapped(images)), flat(stock(images))):
            assert (a - b).abs().max() < 1e-4 * b.abs().max()
    assert len(mixers(wrapped)) == number


def test_attention_calls_its_modules_when_they_are_changed():
    from mmscheme.layers import SelfAttention
    x = torch.randn(1, 32, 3, 5)
    for name, change in CHANGES.items():
        torch.manual_seed(0)
        attention, calls = SelfAttention(32), []
        other = change(attention.proj)
        if isinstance(other, nn.Module) and other is not attention.proj:
            attention.proj = other[0] if isinstance(other, nn.Sequential) else other
        forward = type(attention.proj).forward
        attention.proj.register_forward_hook(lambda *args, calls=calls: calls.append(1))
        for _ in range(2):
            assert attention(x).shape == x.shape and callable(forward)
        assert len(calls) == 2, name
