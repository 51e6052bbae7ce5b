"""The deployment form computes the same with less, and its files say so."""
import re
import sys

import pytest
import torch
from mmengine import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmscheme.analysis.complexity import count_config
from mmscheme.deploy import deploy_config, fold
from mmscheme.deploy.fold import TOLERANCE, largest_difference
from mmscheme.layers import SCHEMEMixer
from mmscheme.models import SCHEMEFFN, SCHEMEformer
from mmscheme.models.loading import build_model, load_weights
from tests.commands import load_tool
from tests.models import TINY, randomise, shrink, slow_but
from tests.test_models.stock_backbones import BACKBONES, excite, wrap
from tests.test_models.stock_backbones import run as backbone_outputs
from tests.utils import REPOSITORY, run

main = load_tool('deploy/fold').main

CONFIGS = sorted((REPOSITORY / 'configs').glob('*.py'))


@pytest.mark.parametrize('path', slow_but(CONFIGS, '_scheme_s_'), ids=lambda p: p.stem)
def test_every_config_has_the_same_outputs_with_less(path):
    cfg = shrink(Config.fromfile(path))
    torch.manual_seed(0)
    model = randomise(build_model(cfg))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    folded = fold(model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not [k for k in folded.state_dict() if re.search(
        r'alpha|cca|layer_scale|auxiliary|running|stages.*norm2', k)]
    assert not [m for m in folded.modules() if type(m).__name__ in (
        'ChannelCovarianceAttention', 'DropPath', 'BatchNorm2d', 'SyncBatchNorm')]
    sizes = [sum(p.numel() for p in m.parameters()) for m in (model, folded)]
    assert sizes[1] < sizes[0]
    # What the written config builds takes these weights and no others.
    rebuilt = build_model(deploy_config(cfg))
    load_weights(rebuilt, folded.state_dict(), 'test')
    assert largest_difference(cfg, model, rebuilt, (64, 96)) <= TOLERANCE


def test_a_wrong_fold_is_seen():
    """The comparison of all configs can fail: each folded part matters in it."""
    cfg = Config.fromfile(REPOSITORY / 'configs' / 'upernet_scheme_s_demo.py')
    cfg.model.backbone.arch = TINY
    cfg.model.decode_head.in_channels = [8, 16, 32, 64]
    cfg.model.auxiliary_head = None
    model = randomise(build_model(cfg))
    names = ['stages.0.0.channel_mixer.ffn.fc2.weight', 'stages.1.0.channel_mixer.ffn.fc1.bias',
             'stages.2.0.token_mixer.proj.bias', 'stages.0.0.norm1.weight']
    for name in names:
        folded = fold(model)
        dict(folded.backbone.named_parameters())[name].data.mul_(1.01)
        assert largest_difference(cfg, model, folded, (64, 96)) > TOLERANCE, name
    folded = fold(model)
    folded.decode_head.conv_seg.bias.data.fill_(float('nan'))  # of the last output alone
    assert not largest_difference(cfg, model, folded, (64, 96)) <= TOLERANCE


def test_fewer_nodes():
    init_default_scope('mmseg')
    model = MODELS.build(dict(type='mmscheme.SCHEMEformer', arch=TINY, drop_path_rate=0.1)).eval()
    x = (torch.randn(1, 3, 64, 64), )
    nodes = [sum(n.op == 'call_function' for n in torch.export.export(m, x).graph.nodes)
             for m in (model, fold(model))]
    # A block has: alpha (5) and its product, two layer scales with their views.
    assert nodes[1] <= nodes[0] - 4 * 8


def test_mixers_and_ffns_of_any_model_are_folded():
    torch.manual_seed(0)
    model = randomise(nn.Sequential(
        SCHEMEFFN(16, 64, dropout_layer=dict(type='DropPath', drop_prob=0.3),
                  layer_scale_init_value=0.1), nn.Sequential(SCHEMEMixer(16)))).eval()
    folded = fold(model)
    x = torch.randn(2, 5, 16)
    assert torch.allclose(model(x), folded(x), atol=1e-5)
    assert not [k for k in folded.state_dict() if re.search('alpha|cca|gamma', k)]
    kept = nn.Sequential(SCHEMEMixer(16, keep_cca=True))
    with pytest.raises(ValueError, match=r'0: keep_cca=True and alpha is 0.5000: its guide'):
        fold(kept)
    kept[0].lower_cca_factor(0.)
    assert torch.allclose(kept.eval()(x), fold(kept)(x), atol=1e-6)


@pytest.mark.parametrize('options', [
    dict(guide='dense'), dict(interleave=True), dict(guide='dense', interleave=True)])
def test_guides_are_gone_and_interleaved_channels_keep_their_scales(options):
    cfg = Config.fromfile(REPOSITORY / 'configs' / 'cls_scheme_s_demo.py')
    cfg.model.backbone.update(arch=TINY, **options)
    cfg.model.head.in_channels = 64
    model = randomise(build_model(cfg))
    model.backbone.stages[0][0].channel_mixer.lower_cca_factor(0.4)
    folded, rebuilt = fold(model), build_model(deploy_config(cfg))
    assert not [k for k in folded.state_dict() if re.search(r'alpha|cca|guide', k)]
    load_weights(rebuilt, folded.state_dict(), 'test')
    assert largest_difference(cfg, model, rebuilt, (64, 96)) <= TOLERANCE
    # What counts at inference has no guide.
    total = count_config(cfg).parts['total'].params
    assert total == sum(p.numel() for n, p in model.named_parameters() if '.guide.' not in n)


def test_a_wrapped_backbone_has_a_deployment_form():
    stock = dict(type='VisionTransformer', img_size=32, patch_size=8, arch=dict(
        embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32))
    cfg = Config.fromfile(REPOSITORY / 'configs' / 'plug_in' / 'cls_deit_s_44e8_in1k.py')
    cfg.model.backbone.backbone, cfg.model.head.in_channels = stock, 16
    for options in ({}, dict(guide='dense', interleave=True), dict(
            _delete_=True, mixer='shared_expert', type='mmscheme.SCHEMEWrapper', backbone=stock)):
        cfg.merge_from_dict(dict(model=dict(backbone=options)))
        model = randomise(build_model(cfg))
        rebuilt = build_model(deploy_config(cfg))
        load_weights(rebuilt, fold(model).state_dict(), 'test')
        assert largest_difference(cfg, model, rebuilt, (32, 32)) <= TOLERANCE


def test_a_wrapped_model_has_a_deployment_form():
    cfg = Config.fromfile(REPOSITORY / 'configs' / 'plug_in' / 'cls_deit_s_44e8_in1k.py')
    wrapper = cfg.model.backbone
    cfg.model.head.in_channels = 16
    cfg.model.backbone = dict(type='VisionTransformer', img_size=32, patch_size=8, arch=dict(
        embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32))
    cfg.model = {**wrapper, 'backbone': cfg.model, 'within': 'backbone'}
    model = randomise(build_model(cfg))
    rebuilt = build_model(deploy_config(cfg))
    load_weights(rebuilt, fold(model).state_dict(), 'test')
    assert largest_difference(cfg, model, rebuilt, (32, 32)) <= TOLERANCE


@pytest.fixture
def checkpoint(tmp_path):
    """Config and checkpoint of a small segmenter that trained."""
    config = tmp_path / 'small.py'
    config.write_text(
        f"_base_ = '{REPOSITORY}/configs/upernet_scheme_s_demo.py'\n"
        f'model = dict(backbone=dict(arch=dict(_delete_=True, **{TINY!r})),\n'
        '             decode_head=dict(in_channels=[8, 16, 32, 64], channels=16),\n'
        '             auxiliary_head=dict(in_channels=32, channels=16))\n'
        'test_dataloader = dict(num_workers=0)\n')
    model = randomise(build_model(Config.fromfile(config)))
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(
        classes=('a', ) * 9, palette=[[0, 0, 0]] * 9))), tmp_path / 'model.pth')
    return config, tmp_path / 'model.pth'


@pytest.mark.slow
def test_command_writes_what_the_test_command_reads(checkpoint, scenes, tmp_path, capsys):
    config, path = checkpoint
    main([str(config), str(path), str(tmp_path / 'out' / 'deployed.pth')])
    shown = capsys.readouterr().out
    before, after = (int(n.replace(',', '')) for n in re.search(
        r'([\d,]+) -> ([\d,]+) parameters', shown).groups())
    written = torch.load(tmp_path / 'out' / 'deployed.pth', weights_only=True)
    assert after < before and written['meta']['dataset_meta']['classes'][0] == 'a'
    assert not [k for k in written['state_dict'] if re.search('alpha|cca|layer_scale', k)]
    logs = [run(sys.executable, 'tools/test.py', c, w, '--data-root', scenes, '--work-dir',
                tmp_path / 'w') for c, w in (
                    (config, path), (tmp_path / 'out' / 'deployed.py',
                                     tmp_path / 'out' / 'deployed.pth'))]
    metrics = [re.findall(r'(?:aAcc|mIoU|mAcc): [\d.]+', log) for log in logs]
    assert len(metrics[0]) == 3 and metrics[0] == metrics[1]


def test_the_config_that_is_read_is_kept(checkpoint, tmp_path, capsys):
    config, path = checkpoint
    text = config.read_text()
    (tmp_path / 'link.py').symlink_to(config)
    before = sorted(tmp_path.iterdir())
    for target in ('small.pth', 'link.pth'):
        with pytest.raises(SystemExit) as status:
            main([str(config), str(path), str(tmp_path / target)])
        error = capsys.readouterr().err
        assert status.value.code == 2 and error.count('\n') == 1
        name = target.replace('pth', 'py')
        assert error.startswith(f'error: {tmp_path}/{name}: would replace the config that is read')
    assert config.read_text() == text and sorted(tmp_path.iterdir()) == before
    for _ in range(2):  # over its own output
        main([str(config), str(path), str(tmp_path / 'out.pth')])


def test_errors_write_nothing(checkpoint, tmp_path, capsys):
    config, path = checkpoint
    torch.save(dict(state_dict={'a': torch.zeros(1)}), tmp_path / 'other.pth')
    before = sorted(tmp_path.iterdir())
    for arguments, message in (
            ((config, tmp_path / 'no.pth', 'x.pth'), 'checkpoint not found'),
            ((config, tmp_path / 'other.pth', 'x.pth'), 'not a checkpoint of this config: missing'),
            ((config, config, 'x.pth'), 'checkpoint refused'),
            ((tmp_path / 'no.py', path, 'x.pth'), 'config not found'),
            ((config, path, 'x.onnx'), 'expected a name *.pth'),
            ((config, path, 'model.pth'), 'would replace the checkpoint')):
        *sources, target = arguments
        with pytest.raises(SystemExit) as status:
            main([*map(str, sources), str(tmp_path / target)])
        error = capsys.readouterr().err
        assert status.value.code == 2 and message in error and error.count('\n') == 1
    with pytest.raises(SystemExit):
        main([str(config), str(path), str(tmp_path / 'x.pth'), '--cfg-options',
              'model.backbone.keep_cca=True'])
    assert 'keep_cca=True and alpha is' in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize('eps', [1e-5, 0.3])
def test_norms_keep_their_eps(eps):
    model = randomise(SCHEMEformer(TINY, norm_cfg=dict(type='GN', num_groups=1, eps=eps))).eval()
    folded, x = fold(model), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(model(x), folded(x)):
            assert (a - b).abs().max() < 1e-4 * a.abs().max()


@pytest.mark.parametrize('name', ['timm RepViT', 'timm EVA02', 'mmpretrain ViT, SwiGLU'])
def test_plugged_mixers_are_folded(name):
    """Also with a norm behind the second layer, with a gate, and in a module with identity."""
    if 'timm' in name:
        pytest.importorskip('timm')
    model = wrap(BACKBONES[name][0], groups='auto')
    excite(model)
    model.eval()
    folded = fold(model, fuse_norms=False)
    assert not [k for k in folded.state_dict() if re.search('alpha|cca', k)]
    with torch.no_grad():
        for a, b in zip(backbone_outputs(model), backbone_outputs(folded)):
            assert (a - b).abs().max() < 1e-4 * a.abs().max()
