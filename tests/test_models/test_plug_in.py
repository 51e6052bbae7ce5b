"""What SCHEMEWrapper keeps of a stock backbone, and what it says."""
import copy
import math
import pickle
import re
from types import SimpleNamespace

import pytest
import torch
from mmcv.cnn.bricks.transformer import FFN
from mmengine import Config
from mmengine.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from mmscheme.engine.hooks import MixingScheduleHook
from mmscheme.layers import ChannelCovarianceAttention, SCHEMEMixer
from mmscheme.models import SCHEMEWrapper
from mmscheme.models.backbones import scheme_wrapper
from mmscheme.models.utils import (
    ADAPTERS,
    Adapter,
    PlugInMixer,
    diagonal_blocks,
    find_channel_mixers,
)
from tests.test_models.stock_backbones import BACKBONES, build, mixers, run, wrap

SWIN = BACKBONES['mmseg Swin'][0]


@pytest.fixture
def log(monkeypatch):
    """What is logged."""
    lines = []
    monkeypatch.setattr(scheme_wrapper, 'print_log', lambda text, **_: lines.append(text))
    return lines


# Tokens that are no positions and positions of each mixer, by hand: images of 64x64.
@pytest.mark.parametrize('name, tokens', [
    ('mmpretrain ViT', [(1, 16)] * 2),
    ('mmpretrain ViT, layer scale', [(0, 16)] * 2),
    ('mmpretrain DeiT', [(2, 16)] * 2),
    ('mmpretrain DeiT3', [(1, 16)] * 2),
    ('mmpretrain BEiT', [(1, 16)] * 2),
    ('mmpretrain T2T-ViT', [(0, 256), (0, 64), *[(1, 16)] * 3]),
    ('mmpretrain TNT', [(0, 16), (1, 16)] * 2),
    ('mmpretrain XCiT', [*[(0, 16)] * 3, *[None] * 2]),
    ('mmpretrain SAM', [(0, 16)] * 2),
    ('mmpretrain HiViT', [*[(0, 256)] * 2, *[(0, 64)] * 2, *[(0, 16)] * 7]),
    ('mmpretrain MLP-Mixer', [(0, 16)] * 2),
    # Windows of 2x2 and 4x4: the whole map.
    ('mmpretrain Swin', [(0, 256), (0, 64), (0, 16), (0, 16), (0, 4)]),
    ('mmpretrain Swin v2', [(0, 256), (0, 64), (0, 16), (0, 16), (0, 4)]),
    ('mmpretrain Twins-SVT', [(0, 256), (0, 64), (0, 16), (0, 16), (0, 4)]),
    ('mmpretrain DaViT', [*[(0, 256)] * 2, *[(0, 64)] * 2, *[(0, 16)] * 4, *[(0, 4)] * 2]),
    ('mmseg Swin', [(0, 256), (0, 64), (0, 16), (0, 16), (0, 4)]),
    ('mmdet Swin', [(0, 256), (0, 64), (0, 16), (0, 16), (0, 4)]),
    ('mmseg ViT', [(1, 16)] * 2),
    ('mmseg BEiT', [(1, 16)] * 2),
    ('mmseg MAE', [(1, 16)] * 2),
    ('timm Swin', [(0, 256), (0, 64), (0, 16), (0, 16), (0, 4)]),
    ('timm DaViT', [*[(0, 256)] * 2, *[(0, 64)] * 2, *[(0, 16)] * 2, *[(0, 4)] * 2]),
    ('timm ViT', [(1, 16)] * 2),
    ('timm ViT, registers', [(5, 16)] * 2),
    ('timm BEiT', [(1, 16)] * 2),
    ('timm CaiT', [*[(0, 16)] * 2, *[None] * 2]),
    ('timm XCiT', [*[(0, 16)] * 2, *[None] * 2]),
    ('timm TNT', [(0, 16), (1, 16)] * 2),
    ('timm CoAtNet', [*[(0, 16)] * 6, *[(0, 4)] * 3])])
def test_the_gram_matrix_has_all_positions_and_nothing_else(name, tokens, monkeypatch):
    if 'timm' in name:
        pytest.importorskip('timm')
    model = wrap(BACKBONES[name][0], groups='auto')
    found = []
    for mixer in mixers(model).values():
        if mixer.cca is None:
            found.append(None)
            continue
        mixer.cca.register_forward_hook(
            lambda cca, inputs, _: found.append(
                (cca.num_extra_tokens, inputs[0][0].numel() // inputs[0].shape[
                    1 if inputs[0].dim() == 4 else 2] - cca.num_extra_tokens)))
    without = found.count(None)
    found.clear()
    model.train()
    with torch.no_grad():
        run(model)
    assert found + [None] * without == tokens


def test_a_class_token_does_not_change_the_cca_of_positions():
    torch.manual_seed(0)
    mixer = mixers(wrap(BACKBONES['timm ViT'][0]))['timm_model.blocks.0.mlp']
    tokens = torch.randn(2, 17, 192)
    other = torch.cat([torch.randn(2, 1, 192), tokens[:, 1:]], 1)
    a, b = mixer.train()(tokens), mixer(other)
    assert a[:, 1:].equal(b[:, 1:]) and not a[:, 0].equal(b[:, 0])
    positions = ChannelCovarianceAttention(192, 8)(tokens[:, 1:])
    assert (mixer.cca(tokens)[:, 1:] - positions).abs().max() < 1e-5


@pytest.mark.parametrize('arguments, error', [
    (dict(groups=(4, 5)),
     r'stages.0.blocks.0.ffn: .*groups=\(4, 5\)'),
    (dict(groups='most'), 'groups: .*most'),
    (dict(groups=0), 'groups: '),
    (dict(expansion=0), 'expansion: .*0'),
    (dict(stages=(1, 4)), r'stages: .*\(1, 4\)'),
    (dict(stages=()), r'stages: .*\(\)'),
    (dict(seed_from_dense=True), 'stages.0.blocks.0.ffn: seed_from_dense'),
    (dict(cca_scaling='gramm'), 'scaling: .*gramm')])
def test_bad_arguments(arguments, error):
    with pytest.raises(ValueError, match=error):
        wrap(SWIN, **arguments)


def test_nothing_to_replace():
    with pytest.raises(ValueError, match='ResNet has no channel mixer that SCHEME can replace'):
        wrap(dict(type='mmseg.ResNet', depth=18))
    for backbone in (build(dict(type='mmscheme.SCHEMEformer')), wrap(SWIN)):
        with pytest.raises(ValueError, match='backbone: .* already has SCHEME mixers'):
            SCHEMEWrapper(backbone)
    with pytest.raises(ValueError, match='has no channel mixer'):  # not a mixer by itself
        SCHEMEWrapper(FFN(8, 32))
    with pytest.raises(TypeError, match='backbone: expected a config with a type or a module, '
                       'found str'):
        SCHEMEWrapper('swin')
    with pytest.raises(ValueError, match='0: SCHEME replaces channel mixers of 2 layers, found '
                       'one of 3'):
        SCHEMEWrapper(nn.Sequential(FFN(8, 32, num_fcs=3)))

    class Own(FFN):

        def forward(self, x):
            return x

    assert not find_channel_mixers(nn.Sequential(Own(8, 32)))


def test_auto_takes_the_most_groups_of_each_width():
    model = SCHEMEWrapper(nn.Sequential(*(FFN(c, 4 * c) for c in (8, 9, 10, 7))), groups='auto',
                          extra_tokens=0)
    assert [m.ffn.fc1.groups for m in mixers(model).values()] == [4, 3, 2, 1]
    model = SCHEMEWrapper(nn.Sequential(FFN(8, 20)), groups=(2, 4), expansion=None, extra_tokens=0)
    mixer, = mixers(model).values()
    assert (mixer.ffn.fc1.groups, mixer.ffn.fc2.groups, mixer.ffn.fc1.out_features) == (2, 4, 20)


def test_only_some_stages():
    assert list(mixers(wrap(SWIN, stages=3))) == ['stages.3.blocks.0.ffn.layers']
    model = wrap(SWIN, stages=(0, 2))
    assert list(mixers(model)) == [
        'stages.0.blocks.0.ffn.layers', 'stages.2.blocks.0.ffn.layers',
        'stages.2.blocks.1.ffn.layers']


def test_a_shared_module_is_replaced_everywhere():
    shared = FFN(8, 32)
    model = SCHEMEWrapper(nn.ModuleList([shared, nn.ModuleList([shared])]), extra_tokens=0)
    assert model[0] is model[1][0] and len(mixers(model)) == 1
    pytest.importorskip('timm')
    from timm.layers import Mlp
    shared = Mlp(8)
    model = SCHEMEWrapper(nn.ModuleList([shared, shared, nn.ModuleList([shared])]), extra_tokens=0)
    assert model[0] is model[1] is model[2][0] and isinstance(model[0], SCHEMEMixer)


def test_a_family_of_ones_own(monkeypatch):
    class Gated(nn.Module):

        def __init__(self):
            super().__init__()
            self.up, self.act, self.down = nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 8)

        def forward(self, x):
            return x.sigmoid() * self.down(self.act(self.up(x)))

    monkeypatch.setitem(ADAPTERS, f'{__name__}.{Gated.__qualname__}',
                        Adapter(('up', 'act', 'down'), 'up'))
    torch.manual_seed(0)
    stock = nn.Sequential(Gated())
    x = torch.randn(2, 5, 8)
    expected = stock(x)
    model = SCHEMEWrapper(stock, 1, expansion=None, cca=False, seed_from_dense=True)
    assert list(mixers(model)) == ['0.up'] and torch.allclose(model(x), expected, atol=1e-6)


def test_heads_are_never_touched():
    timm = pytest.importorskip('timm')
    stock = timm.create_model('vit_tiny_patch16_224', img_size=64, depth=1, global_pool='map')
    head = stock.attn_pool.mlp
    assert SCHEMEWrapper(stock).attn_pool.mlp is head and len(mixers(stock)) == 1


@pytest.mark.parametrize('groups', [1, 2, 4, (1, 4)])
def test_seeds_are_the_diagonal_blocks_and_keep_the_variance(groups):
    torch.manual_seed(0)
    stock = FFN(64, 256)
    dense = {key: value.clone() for key, value in stock.state_dict().items()}
    mixer, = mixers(SCHEMEWrapper(nn.Sequential(stock), groups=groups, expansion=None,
                                   seed_from_dense=True, extra_tokens=0)).values()
    g1, g2 = (groups, groups) if isinstance(groups, int) else groups
    x = torch.randn(4000, 64)
    for layer, key, g in ((mixer.ffn.fc1, '0.0', g1), (mixer.ffn.fc2, '1', g2)):
        weight = dense[f'layers.{key}.weight']
        rows, columns = (n // g for n in weight.shape)
        for k in range(g):
            block = weight[k * rows:(k + 1) * rows, k * columns:(k + 1) * columns]
            assert torch.allclose(layer.weight[k * rows:(k + 1) * rows], block * math.sqrt(g))
        assert layer.bias.equal(dense[f'layers.{key}.bias'])
        x = torch.randn(4000, weight.shape[1])
        variance = (layer(x[None])[0] - layer.bias).var() / (x @ weight.T).var()
        assert 0.9 < variance < 1.1


def test_seeds_of_a_convolution_are_those_of_its_matrix():
    weight = torch.randn(12, 8)
    assert diagonal_blocks(weight[..., None, None], 4).equal(diagonal_blocks(weight, 4))


def drawn(module):
    for p in module.parameters():
        nn.init.normal_(p)
    return module


def gated(name):
    """A gated FFN of 8 channels and 24 hidden ones; weights of gate, values, second layer."""
    if name == 'mmpretrain':
        from mmpretrain.models.utils import SwiGLUFFN
        ffn = drawn(SwiGLUFFN(8, 24, add_identity=False))
        return ffn, [*ffn.w12.weight.chunk(2), ffn.w3.weight], [*ffn.w12.bias.chunk(2),
                                                                ffn.w3.bias]
    mlp = pytest.importorskip('timm.layers.mlp')
    if name == 'two layers':
        ffn = drawn(mlp.SwiGLU(8, 24))
        layers = ffn.fc1_g, ffn.fc1_x, ffn.fc2
        return ffn, [m.weight for m in layers], [m.bias for m in layers]
    ffn = drawn(mlp.GluMlp(8, 48, act_layer=nn.SiLU, gate_last=name == 'gate last'))
    order = (1, 0) if name == 'gate last' else (0, 1)
    return (ffn, *([*(getattr(ffn.fc1, key).chunk(2)[i] for i in order), getattr(ffn.fc2, key)]
                   for key in ('weight', 'bias')))


@pytest.mark.parametrize('name', ['mmpretrain', 'two layers', 'gate first', 'gate last'])
@pytest.mark.parametrize('groups', [(1, 1), (2, 2), (4, 2)])
def test_gate_and_values_have_the_same_blocks(name, groups):
    torch.manual_seed(0)
    ffn, weights, biases = gated(name)
    dense, = find_channel_mixers(nn.ModuleDict(dict(ffn=ffn)))
    mixer = PlugInMixer(dense, 24, groups, cca=False)
    assert not any(mixer.load_state_dict(mixer.from_dense(ffn.state_dict())))
    blocks = [torch.block_diag(*[torch.ones(w.shape[0] // g, w.shape[1] // g)] * g)
              * g**0.5 * w
              for w, g in zip(weights, (groups[0], *groups))]
    x = torch.randn(2, 5, 8)
    gate, values = (x @ w.T + b for w, b in zip(blocks[:2], biases))
    expected = (gate * torch.sigmoid(gate) * values) @ blocks[2].T + biases[2]
    assert (mixer(x) - expected).abs().max() < 1e-5 * expected.abs().max()
    if groups == (1, 1):
        assert torch.allclose(ffn(x), expected, atol=1e-4)


def stock_checkpoint(cfg, path, rename=lambda key: key, holder='state_dict'):
    """Random weights of a stock backbone, with other names."""
    state = build(cfg, 3).state_dict()
    torch.save({holder: {rename(key): torch.randn_like(value) if value.is_floating_point()
                         else value for key, value in state.items()}}, path)
    return torch.load(path)[holder]


def as_published(key):
    """The names of Microsoft's Swin checkpoints, which mmdet converts."""
    for old, new in (('stages', 'layers'), ('attn.w_msa', 'attn'), ('ffn.layers.0.0', 'mlp.fc1'),
                     ('ffn.layers.1', 'mlp.fc2'), ('patch_embed.projection', 'patch_embed.proj')):
        key = key.replace(old, new)
    return key


def in_classifier(key):
    return f'backbone.{key}'


@pytest.mark.parametrize('seed', [False, True])
@pytest.mark.parametrize('name, extra, rename, holder, init_cfg', [
    ('mmseg Swin', {}, in_classifier, 'state_dict', {}),
    ('mmdet Swin', dict(convert_weights=True), as_published, 'model', {}),
    ('mmpretrain Swin', {}, in_classifier, 'state_dict', dict(prefix='backbone.')),
    ('mmseg MiT', {}, in_classifier, 'state_dict', dict(prefix='backbone.')),
    ('mmdet PVT', dict(convert_weights=False), str, 'state_dict', {})])
def test_a_stock_checkpoint(name, extra, rename, holder, init_cfg, seed, tmp_path, log):
    cfg, path = BACKBONES[name][0], tmp_path / 'stock.pth'
    weights = stock_checkpoint(cfg, path, rename, holder)
    cfg = dict(cfg, **extra, init_cfg=dict(type='Pretrained', checkpoint=str(path), **init_cfg))
    arguments = dict(expansion=None, seed_from_dense=True) if seed else {}
    model = wrap(cfg, **arguments)
    fresh = {key: value.clone() for key, value in model.state_dict().items()}
    model.init_weights()
    own = tuple(f'{mixer}.' for mixer in mixers(model))
    replaced = {key for key in fresh if key.startswith(own)}
    line, = (text for text in log if 'weights of the stock' in text)
    missing = re.search('missing: (.*)', line).group(1).split(', ')
    number = len(own)
    if seed:
        replaced = {key for key in replaced if key.endswith(('alpha_logit', 'cca_factor'))}
        assert f'{number} channel mixers take the diagonal blocks' in line
    else:
        assert f'{number} channel mixers have no weights in it and start anew' in line
    assert set(missing) == replaced and f'{len(fresh) - len(replaced)} of {len(fresh)} keys' in line
    for key, value in model.state_dict().items():
        assert value.equal(fresh[key]) == (key in replaced or key.endswith('position_index')), key
    if not seed and name != 'mmdet Swin':
        key = next(k for k in fresh if k not in replaced and k.endswith('.bias'))
        assert model.state_dict()[key].equal(weights[rename(key)])


def test_a_shared_mixer_has_all_its_names(log):
    """CoaT's parallel blocks have one MLP for three scales."""
    timm = pytest.importorskip('timm')
    arguments = dict(parallel_depth=1, embed_dims=(16, 16, 16, 16), serial_depths=(1, 1, 1, 1),
                     num_heads=2)
    stock = timm.create_model('coat_tiny', **arguments)
    model = SCHEMEWrapper(timm.create_model('coat_tiny', **arguments), groups=1, expansion=None,
                          cca=False, seed_from_dense=True)
    assert not any(model.load_state_dict(stock.state_dict()))
    assert log[-1].endswith('missing: none') and ' 5 channel mixers take' in log[-1]


def test_weights_of_its_own_load_in_silence(log):
    model, other = wrap(SWIN), wrap(SWIN, 1)
    log.clear()
    assert not any(other.load_state_dict(model.state_dict()))
    assert not log


def test_a_detector_loads_a_stock_detectors_checkpoint(log):
    stock = nn.ModuleDict(dict(backbone=build(SWIN), head=nn.Linear(2, 2)))
    model = nn.ModuleDict(dict(backbone=wrap(SWIN, 1, groups=1, expansion=None, cca=False,
                                             seed_from_dense=True), head=nn.Linear(2, 2)))
    assert not any(model.load_state_dict(stock.state_dict()))
    with torch.no_grad():
        model.eval(), stock.eval()
        for a, b in zip(run(model.backbone), run(stock.backbone)):
            assert (a - b).abs().max() < 1e-5


@pytest.mark.parametrize('name, frozen', [('mmseg Swin', 2), ('mmpretrain ViT', 1),
                                          ('mmdet Swin', 2)])
def test_frozen_stages(name, frozen):
    cfg = dict(BACKBONES[name][0], frozen_stages=frozen)
    stock, model = build(cfg), wrap(cfg)
    for again in (False, True):  # as built, and after train()
        if again:
            stock.train(), model.train()
        flags = {key: p.requires_grad for key, p in stock.named_parameters()}
        for key, p in model.named_parameters():
            assert p.requires_grad == flags.get(key, p.requires_grad), key
        modes = {key: m.training for key, m in stock.named_modules()}
        for key, mixer in mixers(model).items():
            dense = flags[next(k for k in flags if k.startswith(key))]
            assert all(p.requires_grad == dense for p in mixer.parameters())
            assert all(m.training == modes[key] for m in mixer.modules())
    assert 0 < sum(p.requires_grad for m in mixers(model).values() for p in m.parameters()) < sum(
        1 for m in mixers(model).values() for _ in m.parameters())


def test_layer_decay_is_that_of_the_stock_backbone():
    """By get_layer_depth in mmpretrain and by names in mmdet."""
    def rates(backbone, constructor, **paramwise):
        model = nn.Module()
        model.backbone = backbone
        if hasattr(backbone, 'get_layer_depth'):
            model.get_layer_depth = lambda name: backbone.get_layer_depth(name, 'backbone.')
        wrapper = OPTIM_WRAPPER_CONSTRUCTORS.build(dict(
            type=constructor, paramwise_cfg=paramwise,
            optim_wrapper_cfg=dict(optimizer=dict(type='AdamW', lr=1., weight_decay=0.05))))
        names = {id(p): name for name, p in model.named_parameters()}
        return {names[id(p)]: (group.get('lr_scale', group['lr']), group['weight_decay'])
                for group in wrapper(model).optimizer.param_groups for p in group['params']}

    for name, constructor, paramwise in (
            ('mmpretrain ViT', 'mmpretrain.LearningRateDecayOptimWrapperConstructor',
             dict(layer_decay_rate=0.5)),
            ('mmseg BEiT', 'mmseg.LearningRateDecayOptimizerConstructor',
             dict(decay_rate=0.5, decay_type='layer_wise', num_layers=2)),
            ('mmpretrain ConvNeXt', 'mmdet.LearningRateDecayOptimizerConstructor',
             dict(decay_rate=0.5, decay_type='stage_wise', num_layers=6))):
        cfg = BACKBONES[name][0]
        stock = rates(build(cfg), constructor, **paramwise)
        own = rates(wrap(cfg), constructor, **paramwise)
        assert all(own[key] == stock[key] for key in set(own) & set(stock))
        for key in set(own) - set(stock):  # as what was there before
            dense = re.split(r'layers\.(?=ffn|alpha)|pointwise_conv1', key)[0]
            assert {own[key][0]} == {stock[k][0] for k in stock if k.startswith(dense)}


def test_checkpointing_computes_the_same():
    model = wrap(dict(SWIN, with_cp=True, drop_path_rate=0., drop_rate=0.))
    plain = wrap(dict(SWIN, drop_path_rate=0., drop_rate=0.))
    model.load_state_dict(plain.state_dict())
    grads = []
    for m in (model, plain):
        m.train()
        sum(out.square().mean() for out in run(m)).backward()
        grads.append({key: p.grad for key, p in m.named_parameters()})
    assert all(torch.allclose(grads[0][key], value, atol=1e-6) for key, value in grads[1].items())


def test_the_schedule_takes_out_cca():
    model = wrap(SWIN)
    hook = MixingScheduleHook(decay=(0., 0.5))
    runner = SimpleNamespace(model=model, iter=9, max_iters=10,
                             message_hub=SimpleNamespace(runtime_info={}), hooks=())
    hook.before_train(runner)
    hook.before_train_iter(runner, 0)
    assert all(m.cca_factor == 0 and m.alpha == 1 for m in mixers(model).values())
    model.train()
    for module in model.modules():
        for key in ('drop_prob', 'p'):
            if hasattr(module, key):
                setattr(module, key, 0.)
    with torch.no_grad():
        trained = run(model)
        model.eval()
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(trained, run(model)))


@pytest.mark.parametrize('name', ['mmseg Swin', 'mmpretrain ConvNeXt v2', 'mmdet PVT v2'])
def test_copies_and_pickles(name, log):
    model = wrap(BACKBONES[name][0], expansion=None, seed_from_dense=True)
    model.eval()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.no_grad():
            assert all(a.equal(b) for a, b in zip(run(other), run(model)))
        before = mixers(model)
        log.clear()
        other.load_state_dict(build(BACKBONES[name][0], 5).state_dict(), strict=False)
        assert len(log) == 1
        assert not any(m.ffn.fc1.weight.equal(before[key].ffn.fc1.weight)
                       for key, m in mixers(other).items())


def test_a_config_of_it_can_be_written_out(tmp_path):
    cfg = Config(dict(model=dict(backbone=dict(type='mmscheme.SCHEMEWrapper', backbone=SWIN,
                                               groups=(4, 4), stages=[0]))))
    cfg.dump(tmp_path / 'dumped.py')
    again = Config.fromfile(tmp_path / 'dumped.py')
    assert again.to_dict() == cfg.to_dict()
    assert len(mixers(MODELS.build(again.model.backbone))) == 1
    assert cfg.model.backbone.backbone.type == 'mmseg.SwinTransformer'  # not used up


@pytest.mark.parametrize('name', ['timm ViT, SwiGLU', 'mmpretrain Swin', 'mmpretrain BEiT'])
def test_a_dense_guide_starts_as_the_blocks(name):
    if 'timm' in name:
        pytest.importorskip('timm')
    cfg = BACKBONES[name][0]
    stock, options = build(cfg, 1), dict(groups='auto', expansion=None, seed_from_dense=True)
    guided, plain = wrap(cfg, guide='dense', **options), wrap(cfg, guide=None, **options)
    plain.load_state_dict(stock.state_dict(), strict=False)
    guided.load_state_dict(stock.state_dict(), strict=False)
    for model in (guided, plain):
        model.train()
        for module in model.modules():
            if hasattr(module, 'drop_prob') or isinstance(module, nn.Dropout):
                module.eval()
            if type(module).__name__ == 'LayerScale':  # 1e-5 would hide the mixers
                nn.init.ones_(module.gamma)
    for a, b in zip(run(guided), run(plain)):
        assert torch.allclose(a, b, atol=1e-5)
    for mixer in mixers(guided).values():
        nn.init.normal_(mixer.guide.weight2)
    assert not all(torch.allclose(a, b, atol=1e-3) for a, b in zip(run(guided), run(plain)))
    guided.eval(), plain.eval()
    for a, b in zip(run(guided), run(plain)):
        assert torch.allclose(a, b, atol=1e-5)


def test_blocks_of_a_width_interleave_in_turn():
    cfg = BACKBONES['mmpretrain Swin'][0]
    own = mixers(wrap(cfg, groups='auto', interleave=True)).values()
    widths = [m.ffn.fc1.in_features for m in own]
    assert [m.interleaved > 1 for m in own] == [
        widths[:i].count(width) % 2 == 0 for i, width in enumerate(widths)]
    with pytest.raises(ValueError, match='seed_from_dense'):
        wrap(cfg, groups='auto', interleave=True, expansion=None, seed_from_dense=True)
