"""Other people's layouts, against their models stated anew and mmpretrain's and timm's own."""
import argparse
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from mmpretrain.models import PoolFormer
from timm.layers import GroupNorm1
from timm.models import metaformer as timm_metaformer
from torch import nn

from mmscheme.converters import from_metaformer, to_timm
from mmscheme.models import SCHEMEformer
from tests.commands import load_tool
from tests.utils import RunsCode

metaformer_to_mmscheme = load_tool('model_converters/metaformer2mmscheme').main
mmscheme_to_timm = load_tool('model_converters/mmscheme2timm').main

DIMS, DEPTHS = (32, 64, 96, 128), (1, 2, 1, 1)


class LayerNormOfChannels(nn.Module):
    """Over the channels of each position."""

    def __init__(self, dim):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x):
        x = x - x.mean(1, keepdim=True)
        x = x / (x.pow(2).mean(1, keepdim=True) + 1e-5).sqrt()
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class Mixer(nn.Module):
    """Two 1x1 convolutions in groups; with ``soft`` CCA and two scalars under a softmax."""

    def __init__(self, dim, groups, expansion, soft, keep):
        super().__init__()
        hidden = expansion * dim
        self.fc1 = nn.Conv2d(dim, hidden, 1, groups=groups[0])
        self.fc2 = nn.Conv2d(hidden, dim, 1, groups=groups[1])
        self.tau, self.keep = hidden ** -0.5, keep
        if soft:
            self.weight_soft = nn.Parameter(torch.randn(2))

    def forward(self, x):
        y = self.fc2(F.gelu(self.fc1(x)))
        if not self.keep:
            return y
        rows = x.flatten(2)
        cca = (self.tau * rows @ rows.transpose(1, 2)).softmax(-1) @ rows
        w = self.weight_soft.softmax(0)
        return w[0] * y + w[1] * cca.reshape(x.shape)


class Attention(nn.Module):

    def __init__(self, dim):
        super().__init__()
        self.qkv, self.proj = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim)

    def forward(self, x):
        b, c, h, w = x.shape
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).chunk(3, -1)
        heads = [(q[..., i:i + 32] @ k[..., i:i + 32].transpose(1, 2) * 32 ** -0.5).softmax(-1)
                 @ v[..., i:i + 32] for i in range(0, c, 32)]
        return self.proj(torch.cat(heads, -1)).transpose(1, 2).reshape(b, c, h, w)


class Pool(nn.Module):

    def forward(self, x):
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) - x


class Block(nn.Module):

    def __init__(self, dim, token_mixer, norm, mixer):
        super().__init__()
        self.norm1, self.norm2 = norm(dim), norm(dim)
        self.token_mixer, self.mlp = token_mixer, mixer(dim)
        self.layer_scale_1, self.layer_scale_2 = (nn.Parameter(torch.ones(dim)) for _ in '12')

    def forward(self, x):
        x = x + self.layer_scale_1[:, None, None] * self.token_mixer(self.norm1(x))
        return x + self.layer_scale_2[:, None, None] * self.mlp(self.norm2(x))


class Embed(nn.Module):

    def __init__(self, dim):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, dim, 14, 14))

    def forward(self, x):
        return x + self.pos_embed


class Down(nn.Module):

    def __init__(self, *arguments):
        super().__init__()
        self.proj = nn.Conv2d(*arguments)

    def forward(self, x):
        return self.proj(x)


class Source(nn.Module):
    """The classifier, or with ``features`` the backbone, in the sources' layout."""

    def __init__(self, norm=partial(nn.GroupNorm, 1), groups=(4, 4), expansion=8, soft=True,
                 keep=False, embed=2, attention=(2, 3), features=False):
        super().__init__()
        self.patch_embed = Down(3, DIMS[0], 7, 4, 2)
        network = []
        for i, dim in enumerate(DIMS):
            if i == embed:
                network.append(Embed(dim))
            network.append(nn.Sequential(*(
                Block(dim, Attention(dim) if i in attention else Pool(), norm,
                      lambda d: Mixer(d, groups, expansion, soft, keep))
                for _ in range(DEPTHS[i]))))
            if i < 3:
                network.append(Down(dim, DIMS[i + 1], 3, 2, 1))
        self.network = nn.ModuleList(network)
        self.features = features
        if features:
            for i, dim in enumerate(DIMS):
                self.add_module(f'norm{2 * i}', norm(dim))
        else:
            self.norm, self.head = norm(DIMS[-1]), nn.Linear(DIMS[-1], 7)
        for p in self.parameters():
            nn.init.normal_(p, std=0.2)

    def forward(self, x):
        x, outs = self.patch_embed(x), []
        for i, part in enumerate(self.network):
            x = part(x)
            if self.features and i % 2 == 0:
                outs.append(getattr(self, f'norm{i}')(x))
        return outs if self.features else self.head(self.norm(x).mean((-2, -1)))


def converted_model(found):
    """The backbone, and the weights of the head."""
    backbone = SCHEMEformer(**{k: v for k, v in found.backbone.items() if k != 'type'}).eval()
    backbone.load_state_dict({k.removeprefix('backbone.'): v for k, v in found.state_dict.items()
                              if k.startswith('backbone.')})
    return backbone, {k: v for k, v in found.state_dict.items() if k.startswith('head.')}


def logits(found, x):
    backbone, head = converted_model(found)
    return F.linear(backbone(x)[-1].mean((2, 3)), head['head.fc.weight'], head['head.fc.bias'])


def assert_close(a, b):
    assert a.shape == b.shape and (a - b).abs().max() <= 1e-5 * b.abs().max()


@pytest.mark.parametrize('arguments', [
    dict(), dict(embed=None), dict(soft=False), dict(groups=(1, 2), keep=True),
    dict(groups=(1, 2), keep=True, embed=None), dict(groups=(1, 2), soft=False),
    dict(groups=(1, 1), expansion=8, soft=False),
    dict(groups=(1, 1), expansion=4, soft=False, norm=LayerNormOfChannels),
    dict(groups=(1, 1), expansion=4, soft=False, attention=(), embed=None)])
def test_the_converted_classifier_computes_the_same(arguments):
    torch.manual_seed(0)
    source = Source(**arguments).double()
    found = from_metaformer({f'module.{k}': v for k, v in source.state_dict().items()})
    torch.set_default_dtype(torch.float64)
    try:
        x = torch.randn(2, 3, 224, 224)
        assert_close(logits(found, x), source(x))
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.backbone['cca'] == arguments.get('soft', True)
    assert found.backbone.get('keep_cca', False) == arguments.get('keep', False)
    assert set(found.mixing) == ({'stages.0.0', 'stages.1.0', 'stages.1.1', 'stages.2.0',
                                  'stages.3.0'} if arguments.get('soft', True) else set())
    for block, rest in found.mixing.items():
        stage = int(block.split('.')[1])
        index = [i for i, m in enumerate(source.network) if isinstance(m, nn.Sequential)][stage]
        soft = source.network[index][int(block[-1])].mlp.weight_soft
        assert rest == pytest.approx(soft.softmax(0)[1].item(), abs=1e-9)


def test_alpha_and_cca_stay_to_go_on_training():
    torch.manual_seed(0)
    source = Source(keep=True)
    found = from_metaformer(source.state_dict(), keep_alpha=True)
    backbone, head = converted_model(found)
    x = torch.randn(2, 3, 224, 224)
    y = backbone.train()(x)[-1].mean((2, 3))    # CCA is in training's output
    assert (F.linear(y, head['head.fc.weight'], head['head.fc.bias']) - source(x)).abs().max() \
        < 1e-4 * source(x).abs().max()


def test_a_backbone_with_four_norms_and_another_norm_than_guessed():
    torch.manual_seed(0)
    source = Source(features=True, embed=None, norm=LayerNormOfChannels)
    found = from_metaformer(source.state_dict(), norm='layer')
    assert found.backbone['out_indices'] == (0, 1, 2, 3)
    x = torch.randn(1, 3, 97, 65)
    for a, b in zip(converted_model(found)[0](x), source(x)):
        assert (a - b).abs().max() < 1e-4 * b.abs().max()
    wrong = from_metaformer(source.state_dict())    # the weights cannot tell
    assert wrong.backbone['norm_cfg']['type'] == 'GN'


def test_mmpretrain_poolformer_s12_itself():
    torch.manual_seed(0)
    theirs = PoolFormer('s12', frozen_stages=-1, out_indices=(0, 2, 4, 6))
    theirs.train(False)
    for p in theirs.parameters():  # layer scale of 1e-5 would hide the blocks
        nn.init.normal_(p, std=0.05)
    found = from_metaformer({f'backbone.{k}': v for k, v in theirs.state_dict().items()})
    assert found.backbone['arch'] == dict(depths=(2, 2, 6, 2), embed_dims=(64, 128, 320, 512),
                                          token_mixers=('pool', ) * 4)
    assert found.backbone['norm_cfg'] == dict(type='GN', num_groups=1)
    x = torch.randn(2, 3, 97, 65)
    for a, b in zip(converted_model(found)[0](x), theirs(x)):
        assert (a - b).abs().max() < 1e-5 * b.abs().max()


class AttentionWithBias(timm_metaformer.Attention):
    """timm's attention with a bias in the projection."""

    def __init__(self, dim, **kwargs):
        super().__init__(dim, **{**kwargs, 'proj_bias': True})


class WholeMapNorm(nn.GroupNorm):
    """One group over the tokens ``(B, N, C)`` that timm's attention stages work on."""

    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def test_to_timm_dense_is_timms_own_metaformer():
    torch.manual_seed(0)
    ours = SCHEMEformer(dict(depths=DEPTHS, embed_dims=DIMS), groups=(1, 1), expansion=4,
                        cca=False).eval()
    for p in ours.parameters():
        nn.init.normal_(p, std=0.1)
    theirs = timm_metaformer.MetaFormer(
        depths=DEPTHS, dims=DIMS, downsample_norm=None, mlp_act=nn.GELU, mlp_bias=True,
        token_mixers=[timm_metaformer.Pooling] * 2 + [AttentionWithBias] * 2,
        norm_layers=[GroupNorm1] * 4, layer_scale_init_values=1., res_scale_init_values=None,
        output_norm=GroupNorm1, use_mlp_head=False).eval()
    state = to_timm({f'backbone.{k}': v for k, v in ours.state_dict().items()}
                    | {'head.fc.weight': torch.zeros(1000, 128), 'head.fc.bias': torch.ones(1000)})
    others = {k: state.pop(k) for k in list(state) if k.startswith('norm')}
    assert set(others) == {f'norm{i}.{leaf}' for i in range(3) for leaf in ('weight', 'bias')}
    for stage in theirs.stages[2:]:
        for block in stage.blocks:
            for name in ('norm1', 'norm2'):
                setattr(block, name, WholeMapNorm(1, getattr(block, name).num_channels))
    theirs.load_state_dict(state)
    x = torch.randn(2, 3, 97, 65)
    a, b = theirs.head.norm(theirs.forward_features(x)), ours(x)[-1]
    assert a.shape == b.shape and (a - b).abs().max() < 1e-4 * b.abs().max()


def test_to_timm_folds_alpha_into_grouped_convolutions():
    torch.manual_seed(0)
    ours = SCHEMEformer(dict(depths=DEPTHS, embed_dims=DIMS), pos_embed=True).eval()
    for p in ours.parameters():
        nn.init.normal_(p, std=0.3)
    ours.stages[1][0].channel_mixer.lower_cca_factor(0.25)
    state = to_timm(ours.state_dict())
    assert not [k for k in state if 'alpha' in k or 'cca' in k]
    assert torch.equal(state['pos_embed'], ours.pos_embed)
    for i, j in ((0, 0), (1, 0), (3, 0)):
        mixer, prefix = ours.stages[i][j].channel_mixer, f'stages.{i}.blocks.{j}.mlp.'
        x = torch.randn(2, DIMS[i], 5, 3)
        hidden = F.conv2d(x, state[prefix + 'fc1.weight'], state[prefix + 'fc1.bias'], groups=4)
        y = F.conv2d(F.gelu(hidden), state[prefix + 'fc2.weight'], state[prefix + 'fc2.bias'],
                     groups=4)
        assert (y - mixer(x)).abs().max() < 1e-5 * y.abs().max()
    assert len(state) == len(ours.state_dict()) - 2 * 5


@pytest.mark.parametrize('change, message', [
    (lambda w: {'stem.conv.weight': torch.ones(1)}, 'patch_embed.proj.weight, found'),
    (lambda w: {**w, 'network.0.0.mlp.aux.weight': torch.ones(1)},
     r'network.0.0.mlp.aux.weight: not a weight of a SCHEMEformer'),
    (lambda w: {**w, 'network.0.0.token_mixer.fc.weight': torch.ones(1)}, 'token_mixer.fc.weight'),
    (lambda w: {k: v for k, v in w.items() if not k.startswith('network.7.')},
     'blocks of 4 stages under network, found 3'),
    (lambda w: {k: v for k, v in w.items() if k != 'network.5.0.norm1.bias'},
     r'weights do not fit .* missing stages.2.0.norm1.bias'),
    (lambda w: {**w, 'network.5.0.norm1.bias': torch.ones(7)},
     r'stages.2.0.norm1.bias is \(7,\), expected \(96,\)'),
    (lambda w: {**w, 'extra': torch.ones(1)}, 'extra: not a weight'),
])
def test_other_weights_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        from_metaformer(change(Source().state_dict()))


def test_an_embedding_elsewhere_and_unknown_settings_are_named():
    with pytest.raises(ValueError, match=r'network.6.pos_embed: .* before stage 2 .* stage 3'):
        from_metaformer(Source(embed=3).state_dict())
    with pytest.raises(ValueError, match="norm: expected one of .*, found 'batch'"):
        from_metaformer(Source().state_dict(), norm='batch')
    with pytest.raises(ValueError, match='downsamples.0.weight, found'):
        to_timm(Source().state_dict())
    with pytest.raises(ValueError, match='stages.0.0.mlp.x: not a weight'):
        to_timm({'downsamples.0.weight': torch.ones(1), 'stages.0.0.mlp.x': torch.ones(1)})


def test_commands_and_their_errors(tmp_path, capsys):
    torch.manual_seed(0)
    source = Source(groups=(1, 2), keep=True)
    # As timm's trainer writes it, with the command line in it.
    torch.save(dict(arch='x', epoch=3, args=argparse.Namespace(lr=0.1, tags=['a']),
                    state_dict=source.state_dict()), tmp_path / 'source.pth.tar')
    metaformer_to_mmscheme([str(tmp_path / 'source.pth.tar'), str(tmp_path / 'ours.pth')])
    out = capsys.readouterr().out
    assert 'stages.1.1: CCA weight ' in out and 'warning: the authors keep CCA' in out
    assert "type='mmscheme.SCHEMEformer'" in out and 'groups=(' in out
    content = torch.load(tmp_path / 'ours.pth', weights_only=True)
    found = from_metaformer(source.state_dict())
    assert all(torch.equal(v, found.state_dict[k]) for k, v in content['state_dict'].items())
    mmscheme_to_timm([str(tmp_path / 'ours.pth'), str(tmp_path / 'timm.pth')])
    assert 'head.fc.weight' in torch.load(tmp_path / 'timm.pth', weights_only=True)

    torch.save(dict(state_dict={'a': RunsCode(tmp_path / 'ran')}), tmp_path / 'code.pth')
    torch.save(source.state_dict(), tmp_path / 'whole.pth')
    data = (tmp_path / 'whole.pth').read_bytes()
    (tmp_path / 'cut.pth').write_bytes(data[:len(data) // 2])
    torch.save({'features.0.weight': torch.ones(1)}, tmp_path / 'other.pth')
    torch.save([1], tmp_path / 'list.pth')
    (tmp_path / 'link.pth').symlink_to(tmp_path / 'source.pth.tar')
    before = sorted(tmp_path.iterdir())
    for command in (metaformer_to_mmscheme, mmscheme_to_timm):
        for name, message in (
                ('none.pth', 'checkpoint not found'), ('code.pth', 'could run code'),
                ('cut.pth', 'not a readable checkpoint'), ('list.pth', 'found list'),
                ('other.pth', "found ['features.0.weight']")):
            with pytest.raises(SystemExit) as status:
                command([str(tmp_path / name), str(tmp_path / 'x.pth')])
            error = capsys.readouterr().err
            assert status.value.code == 2 and error.startswith('error: ') and message in error
            assert name in error and error.count('\n') == 1
        for name, link in (('ours.pth', 'ours.pth'), ('source.pth.tar', 'link.pth')):
            content = (tmp_path / name).read_bytes()
            with pytest.raises(SystemExit) as status:
                command([str(tmp_path / name), str(tmp_path / link)])
            error = capsys.readouterr().err
            assert status.value.code == 2 and error.count('\n') == 1
            assert f'{link}: would replace the checkpoint that is read' in error
            assert (tmp_path / name).read_bytes() == content
    assert sorted(tmp_path.iterdir()) == before
