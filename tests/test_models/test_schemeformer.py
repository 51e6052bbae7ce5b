"""The backbone against published counts and mmpretrain's PoolFormer."""
import functools

import pytest
import torch
from mmengine.registry import MODELS as ROOT
from mmengine.registry import init_default_scope
from mmpretrain.models import PoolFormer

from mmscheme.models import SCHEMEformer
from mmscheme.models.backbones.schemeformer import ARCHS
from tests.base import BackboneTester

DENSE = dict(groups=(1, 1), expansion=4, cca=False)
# Parameters with position embedding and a 1000-class head, two mixing scalars a block.
PUBLISHED = {
    's12': dict(scheme44=11830336, dense=16535592, scheme12=21267520, scheme22=16548928,
                backbone=11255640),
    's24': dict(scheme44=21156568, dense=30567080, scheme12=40030936, scheme22=30593752,
                backbone=20581872),
    's36': dict(scheme44=30482800, dense=44598568, scheme12=58794352, scheme22=44638576,
                backbone=29908104),
    'm36': dict(scheme44=55206448, dense=81031912, scheme12=106963504, scheme22=81084976,
                backbone=54363528),
}
TINY = dict(depths=(1, 2, 1, 1), embed_dims=(8, 16, 32, 64))


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize('arch', PUBLISHED)
def test_parameter_counts_are_the_published_ones(arch):
    with torch.device('meta'):
        backbone = SCHEMEformer(arch)
        blocks = sum(len(stage) for stage in backbone.stages)
        published = PUBLISHED[arch]
        # One logit a block instead of two scalars.
        assert count(backbone) == published['backbone'] - blocks
        width = backbone.downsamples[-1].out_channels
        head = width * 1000 + 1000
        for name, arguments in (('scheme44', {}), ('dense', DENSE),
                                ('scheme12', dict(groups=(1, 2))),
                                ('scheme22', dict(groups=(2, 2)))):
            model = SCHEMEformer(arch, out_indices=(3, ), pos_embed=True, **arguments)
            scalars = 0 if name == 'dense' else blocks
            assert count(model) + head == published[name] - scalars, name


class TestBackbone(BackboneTester):
    """Every arch with a block a stage, and what changes the path through the network."""

    @pytest.fixture(params=[*ARCHS, 'dense', 'pos_embed'])
    def build(self, request):
        arch = dict(ARCHS.get(request.param, TINY), depths=(1, 1, 1, 1))
        arguments = dict(dense=DENSE, pos_embed=dict(pos_embed=True)).get(request.param, {})
        torch.manual_seed(0)
        return functools.partial(SCHEMEformer, arch, **arguments)


def test_dense_pooling_variant_equals_mmpretrain_poolformer():
    torch.manual_seed(0)
    ours = SCHEMEformer(dict(depths=(2, 2, 6, 2), embed_dims=(64, 128, 320, 512),
                             token_mixers=('pool', ) * 4), **DENSE).eval()
    theirs = PoolFormer('s12', out_indices=(0, 2, 4, 6), frozen_stages=-1)
    theirs.train(False)
    for p in theirs.parameters():  # layer scale of 1e-5 would hide the blocks
        torch.nn.init.normal_(p, std=0.05)

    def rename(name):
        part, rest = name.split('.', 1)
        if part == 'patch_embed':
            return name.replace('patch_embed.proj', 'downsamples.0')
        if part != 'network':
            return name
        index, rest = rest.split('.', 1)
        if rest.startswith('proj'):
            return rest.replace('proj', f'downsamples.{(int(index) + 1) // 2}')
        rest = rest.replace('mlp.', 'channel_mixer.ffn.').replace('layer_scale_', 'layer_scale')
        return f'stages.{int(index) // 2}.{rest}'

    state = {rename(k): v for k, v in theirs.state_dict().items()}
    # mmpretrain names the output norms by position in its list: 0, 2, 4, 6.
    for i in (3, 2, 1, 0):
        for leaf in ('weight', 'bias'):
            state[f'norm{i}.{leaf}'] = theirs.state_dict()[f'norm{2 * i}.{leaf}']
    for k in [k for k in state if k.startswith(('norm4', 'norm6'))]:
        del state[k]
    wanted = ours.state_dict()
    state = {k: v.reshape(wanted[k].shape) for k, v in state.items()}
    ours.load_state_dict(state)
    x = torch.randn(2, 3, 97, 65)
    for a, b in zip(ours(x), theirs(x)):
        assert a.shape == b.shape
        assert (a - b).abs().max() < 1e-4 * b.abs().max()


@pytest.mark.parametrize('arguments', [dict(with_cp=True), dict(drop_path_rate=0.2, drop_rate=0.1),
                                       dict(out_indices=(1, 2)), dict(out_indices=0)])
def test_every_parameter_gets_a_gradient(arguments):
    torch.manual_seed(0)
    model = SCHEMEformer(TINY, **arguments).train()
    # A batch so large that drop path does not skip a block for all of it.
    outs = model(torch.randn(16, 3, 65, 66))
    sum((out * torch.randn_like(out)).sum() for out in outs).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


def test_checkpointing_changes_nothing_but_memory():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 64, 64)
    plain = SCHEMEformer(TINY)
    saving = SCHEMEformer(TINY, with_cp=True)
    saving.load_state_dict(plain.state_dict())
    saved = []
    for model in (plain, saving):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t,
                                                      lambda t: t):
            outs = model(x)
        sum(out.square().sum() for out in outs).backward()
        saved.append(None)
    middle = saved.index(None)
    assert sum(saved[middle + 1:-1]) < sum(saved[:middle]) / 2
    for a, b in zip(plain.parameters(), saving.parameters()):
        assert torch.allclose(a.grad, b.grad, atol=1e-5)


@pytest.mark.parametrize('frozen', [-1, 0, 1, 3, 4])
def test_frozen_stages(frozen):
    model = SCHEMEformer(TINY, frozen_stages=frozen, pos_embed=True, drop_path_rate=0.5).train()
    assert model.downsamples[0].weight.requires_grad == (frozen < 0)
    for i in range(4):
        parameters = [*model.stages[i].parameters(), *getattr(model, f'norm{i}').parameters(),
                      *(model.downsamples[i].parameters() if i else [])]
        assert {p.requires_grad for p in parameters} == {i >= frozen}
        assert all(b.training == (i >= frozen) for b in model.stages[i])
    assert model.pos_embed.requires_grad == (frozen < 3)


def test_position_embedding_is_added_before_stage_2_and_interpolated():
    torch.manual_seed(0)
    with_embed, without = SCHEMEformer(TINY, pos_embed=True), SCHEMEformer(TINY)
    state = with_embed.state_dict()
    embed = state.pop('pos_embed')
    assert embed.shape == (1, 32, 14, 14) and not embed.any()
    without.load_state_dict(state)
    with_embed.eval(), without.eval()
    for size in (224, 96):
        x = torch.randn(1, 3, size, size)
        assert all(torch.equal(a, b) for a, b in zip(with_embed(x), without(x)))
    with torch.no_grad():
        with_embed.pos_embed.fill_(0.7)  # a constant is the same at any size
    for size in (224, 96):
        x = torch.randn(1, 3, size, size)
        seen = []
        for model in (with_embed, without):
            model.stages[2][0].register_forward_pre_hook(
                lambda module, args, seen=seen: seen.append(args[0]))
        a, b = with_embed(x), without(x)
        assert torch.allclose(seen[0], seen[-1] + 0.7, atol=1e-5)
        assert torch.equal(a[1], b[1]) and not torch.allclose(a[2], b[2])


def test_drop_path_grows_linearly_over_the_blocks():
    model = SCHEMEformer(TINY, drop_path_rate=0.4)
    rates = [getattr(b.drop_path, 'drop_prob', 0.) for stage in model.stages for b in stage]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_family_layer_scales_and_custom_parts():
    assert SCHEMEformer('s12').stages[0][0].layer_scale1[0].item() == pytest.approx(1e-5)
    with torch.device('meta'):
        assert len(SCHEMEformer('m36').stages[2]) == 18
    model = SCHEMEformer(dict(TINY, layer_scale_init=0.5), norm_cfg=dict(type='BN'),
                         act_cfg=dict(type='ReLU'), in_channels=5, expansion=4)
    assert model.stages[0][0].layer_scale2[0] == 0.5
    assert isinstance(model.norm0, torch.nn.BatchNorm2d)
    mixer = model.stages[0][0].channel_mixer
    assert isinstance(mixer.ffn.act, torch.nn.ReLU) and mixer.ffn.fc1.out_features == 32
    assert len(model(torch.randn(2, 5, 32, 32))) == 4


def test_cca_stays_in_evaluation_when_asked_for():
    torch.manual_seed(0)
    x = torch.randn(1, 3, 64, 64)
    dropped = SCHEMEformer(dict(TINY, layer_scale_init=1.))
    kept = SCHEMEformer(dict(TINY, layer_scale_init=1.), keep_cca=True)
    kept.load_state_dict(dropped.state_dict())
    dropped.train(), kept.eval()
    assert torch.allclose(dropped(x)[-1], kept(x)[-1], atol=1e-6)
    assert not torch.allclose(dropped.eval()(x)[-1], kept(x)[-1], atol=1e-3)


@pytest.mark.parametrize('arguments', [{}, DENSE, dict(norm_cfg=dict(type='BN'))])
def test_memory_format_and_implementation_change_nothing(arguments):
    torch.manual_seed(0)
    arch = dict(TINY, layer_scale_init=1.)
    fused = SCHEMEformer(arch, **arguments).train()
    plain = SCHEMEformer(arch, implementation='plain', **arguments).train()
    plain.load_state_dict(fused.state_dict())
    x = torch.randn(2, 3, 65, 97)
    grads = []
    for model, image, memory_format in ((plain, x, torch.contiguous_format),
                                        (fused, x, torch.contiguous_format),
                                        (fused, x.contiguous(memory_format=torch.channels_last),
                                         torch.channels_last)):
        model.zero_grad()
        outs = model(image)
        assert all(out.is_contiguous(memory_format=memory_format) for out in outs)
        sum(out.square().mean() for out in outs).backward()
        grads.append([*outs, *(p.grad for p in model.parameters())])
    for expected, *found in zip(*grads):
        for g in found:
            assert (g - expected).abs().max() < 1e-3 * expected.abs().max() + 1e-6


def test_inside_all_maps_are_channels_last():
    model = SCHEMEformer(TINY, pos_embed=True).eval()
    strides = {}
    for name, module in model.named_modules():
        if name.count('.') in (2, 3) or name.startswith('downsamples.'):
            module.register_forward_hook(
                lambda m, args, out, name=name: strides.update({name: out.stride(1)}))
    model(torch.randn(2, 3, 65, 97))
    assert len(strides) > 20 and set(strides.values()) == {1}


@pytest.mark.parametrize('scope', ['mmseg', 'mmdet', 'mmpretrain'])
def test_found_from_every_scope(scope):
    registry = __import__(f'{scope}.registry', fromlist=['MODELS']).MODELS
    model = registry.build(dict(type='mmscheme.SCHEMEformer', arch=TINY))
    assert isinstance(model, SCHEMEformer)
    assert isinstance(ROOT.build(dict(type='mmscheme.SCHEMEFFN', embed_dims=8,
                                      feedforward_channels=32)).mixer.alpha, torch.Tensor)


@pytest.mark.parametrize('arguments, message', [
    (dict(arch='s13'), 'arch: .*s13'),
    (dict(arch=dict(depths=(1, 1, 1, 1))), 'arch: .*depths'),
    (dict(arch=dict(TINY, depts=1)), 'arch: .*depts'),
    (dict(arch=dict(TINY, depths=(1, 1))), 'arch.depths: '),
    (dict(arch=dict(TINY, token_mixers=('pool', ) * 3 + ('conv', ))), r"arch.token_mixers.*'conv'"),
    (dict(groups=(3, 4)), 'groups=3'),
    (dict(out_indices=(0, 4)), 'out_indices: '),
    (dict(frozen_stages=9), 'frozen_stages: '),
])
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SCHEMEformer(**arguments)


def test_misspelt_arguments_are_errors():
    with pytest.raises(TypeError, match='expantion'):
        SCHEMEformer(expantion=4)


def test_layer_wise_decay_of_the_learning_rate():
    """mmpretrain's constructor; the depths of 1 + 2 + 1 + 1 blocks are counted by hand."""
    from mmpretrain.engine.optimizers import LearningRateDecayOptimWrapperConstructor
    from mmpretrain.models import ImageClassifier
    init_default_scope('mmpretrain')
    model = ImageClassifier(
        dict(type='mmscheme.SCHEMEformer', pos_embed=True, out_indices=(3, ), arch=dict(
            depths=(1, 2, 1, 1), embed_dims=TINY['embed_dims'])),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=3, in_channels=TINY['embed_dims'][-1]))
    optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1., weight_decay=0.1))
    optimizer = LearningRateDecayOptimWrapperConstructor(
        optim_wrapper, dict(layer_decay_rate=0.5))(model).optimizer
    rates = {group['param_name'].replace('backbone.', ''): group['lr']
             for group in optimizer.param_groups}
    assert set(rates) == {name.replace('backbone.', '') for name, _ in model.named_parameters()}
    expected = {'downsamples.0': 0, 'stages.0.0': 1, 'downsamples.1': 2, 'stages.1.0': 2,
                'stages.1.1': 3, 'pos_embed': 4, 'downsamples.2': 4, 'stages.2.0': 4,
                'downsamples.3': 5, 'stages.3.0': 5, 'norm3': 6, 'head': 6}
    for name, rate in rates.items():
        depth, = (depth for start, depth in expected.items() if name.startswith(start))
        assert rate == 0.5**(6 - depth), name
