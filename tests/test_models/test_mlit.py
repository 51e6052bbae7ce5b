"""mLiT against the paper's sizes, and in the frameworks; shared experts in stock backbones."""
import math
import re

import pytest
import torch
import torch.distributed as dist
from mmengine import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import FUNCTIONS, HOOKS, MODELS, init_default_scope
from mmpretrain.structures import DataSample

from mmscheme.analysis.random_batch import random_batch
from mmscheme.checks.findings import Findings
from mmscheme.checks.model import check_cca
from mmscheme.deploy import deploy_config, fold
from mmscheme.engine.hooks import AuxiliaryLossHook
from mmscheme.layers import GroupedQueryAttention, SharedExpertFFN, auxiliary_losses
from mmscheme.models import MAEMLiT, MLiT, SCHEMEWrapper
from mmscheme.models.loading import build_model, load_weights
from tests.commands import load_tool
from tests.models import check_step_and_prediction
from tests.test_models.stock_backbones import BACKBONES
from tests.utils import REPOSITORY, free_port, readme_names

CONFIGS = REPOSITORY / 'configs' / 'mlit'
TINY = dict(embed_dims=12, num_layers=3, hidden_dims=(9, 4), num_heads=4, num_groups=2)
VIT = dict(type='mmpretrain.VisionTransformer', img_size=32, patch_size=8, arch=dict(
    embed_dims=12, num_layers=2, num_heads=2, feedforward_channels=24), drop_rate=0.25)


def tiny(**options):
    torch.manual_seed(0)
    return MLiT(TINY, **options)


@pytest.mark.parametrize('arch, dims, depth, hidden, kv, exact, published', [
    ('s', 144, 15, (144, 72), 72, 2360524, '2.36'), ('xs', 128, 12, (96, 32), 64, 1204816, '1.20'),
    ('xxs', 108, 9, (81, 27), 54, 652694, '0.653')])
def test_parameter_counts(arch, dims, depth, hidden, kv, exact, published):
    """Those of the paper, as far as it gives digits, and of a formula for the ten classes."""
    with torch.device('meta'):
        model = MLiT(arch)
    formula = 27 * dims + dims + dims + 145 * dims + 2 * dims + 10 * dims + 10
    for i in range(depth):
        h = round(hidden[0] - (hidden[0] - hidden[1]) * i / (depth - 1))
        e = 3 + 3 * i // depth
        assert model.layers[i].ffn.v.out_features == h
        assert model.layers[i].ffn.num_experts == e
        formula += 2 * dims * dims + 2 * dims * kv + dims  # queries and projection, keys, values
        formula += 4 * dims + e * (dims * h + h) + dims * h + h + h * dims + dims + 2 * dims * e
    count = sum(p.numel() for p in model.parameters()) + 10 * dims + 10
    assert count == formula == exact
    assert f'{count / 1e6:.{len(published) - 2}f}' == published
    if arch == 'xxs':  # with 100 classes
        assert f'{(count + 90 * (dims + 1)) / 1e6:.3f}' == '0.663'


def test_grouped_query_attention_equals_a_loop():
    torch.manual_seed(0)
    layer = GroupedQueryAttention(12, num_heads=6, num_groups=2).double()
    x = torch.randn(2, 5, 12).double()
    q, kv = layer.q(x), layer.kv(x)
    heads = []
    for head in range(6):
        group = head // 3
        query = q[..., 2 * head:2 * head + 2]
        key, value = (kv[..., start + 2 * group:start + 2 * group + 2] for start in (0, 4))
        scores = query @ key.mT / math.sqrt(2)
        heads.append(scores.exp() / scores.exp().sum(-1, keepdim=True) @ value)
    assert (layer(x) - layer.proj(torch.cat(heads, -1))).abs().max() < 1e-12
    for wrong in (dict(num_heads=5), dict(num_heads=4, num_groups=3), dict(num_groups=0)):
        with pytest.raises(ValueError, match='num_'):
            GroupedQueryAttention(12, **wrong)


def test_maps_class_tokens_and_odd_sizes():
    model = tiny(img_size=(9, 12), out_indices=(0, -1)).eval()
    for height, width in ((9, 12), (36, 36), (10, 14), (1, 2)):
        maps = model(torch.randn(2, 3, height, width))
        assert [m.shape for m in maps] == [(2, 12, -(-height // 3), -(-width // 3))] * 2
        assert all(m.isfinite().all() for m in maps)
    tokens = tiny(out_type='cls_token')(torch.randn(2, 3, 36, 36))
    assert [t.shape for t in tokens] == [(2, 12)]
    # The norm is for the last layer, and layers that nobody reads are not built.
    assert maps[-1].mean(1).abs().max() < 1e-5 < maps[0].mean(1).abs().max()
    short = tiny(out_indices=1)
    assert len(short.layers) == 2 and short.norm is None
    for wrong in (dict(out_indices=3), dict(out_indices=-4), dict(out_type='raw'),
                  dict(img_size=(3, )), dict(img_size=2), dict(drop_path_rate=1.)):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            tiny(**wrong)
    for arch in ('m', dict(TINY, depth=3), dict(TINY, hidden_dims=3)):
        with pytest.raises(ValueError, match='arch'):
            MLiT(arch)
    with pytest.raises(ValueError, match='expected images'):
        short(torch.zeros(1, 4, 9, 9))
    with pytest.raises(TypeError, match='top_kk: .*did you mean top_k'):
        tiny(top_kk=2)


def test_every_parameter_gets_a_gradient_with_and_without_checkpointing():
    x, results = torch.randn(8, 3, 36, 36), []
    for with_cp in (False, True):
        model = tiny(with_cp=with_cp, drop_rate=0.1).train()
        with auxiliary_losses(model) as losses:
            out, = model(x)
        (out.square().mean() + 100 * sum(losses.values())).backward()
        results.append({n: p.grad for n, p in model.named_parameters()})
    assert all(g is not None and g.any() for g in results[0].values())
    assert all(torch.allclose(g, results[1][n], atol=1e-6) for n, g in results[0].items())


def test_depths_of_parameters():
    model = tiny()
    depths = {n: model.get_layer_depth(f'backbone.{n}', 'backbone.')
              for n, _ in model.named_parameters()}
    assert depths['pos_embed'] == depths['patch_embed.weight'] == (0, 5)
    assert depths['layers.2.ffn.w1.weight'] == (3, 5) and depths['norm.bias'] == (4, 5)
    assert model.get_layer_depth('head.fc.weight', 'backbone.') == (4, 5)


def test_masked_autoencoder_sees_a_quarter():
    torch.manual_seed(0)
    model, x = MAEMLiT(TINY), torch.randn(2, 3, 36, 36)
    latent, mask, restore = model(x)
    assert latent.shape == (2, 37, 12) and mask.sum(1).tolist() == [108., 108.]
    assert restore.sort(1).values.equal(torch.arange(144).expand(2, -1))
    model.eval()
    torch.manual_seed(1)
    latent, mask, _ = model(x)
    changed = torch.where(mask.view(2, 1, 12, 12).repeat_interleave(3, 2).repeat_interleave(3, 3)
                          .bool(), torch.tensor(9.), x)
    torch.manual_seed(1)
    assert torch.equal(model(changed)[0], latent)
    assert model(x, mask=None)[0].shape == (2, 12, 12, 12)
    with pytest.raises(ValueError, match='mask_ratio'):
        MAEMLiT(TINY, mask_ratio=1)


def attach(model):
    hook = AuxiliaryLossHook()
    hook.before_train(type('Runner', (), dict(model=model)))
    return hook


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*.py')), ids=lambda p: p.stem)
def test_config_trains_a_step(path):
    cfg = Config.fromfile(path)
    assert cfg.default_hooks.auxiliary_loss.type == 'mmscheme.AuxiliaryLossHook'
    if cfg.model.type != 'MAE':
        init_default_scope('mmpretrain')
        model = MODELS.build(cfg.model)
        attach(model)
        check_step_and_prediction(model, cfg)
        return
    init_default_scope('mmpretrain')
    model = MODELS.build(cfg.model)
    model.init_weights()
    hook = attach(model)
    collate = FUNCTIONS.get(cfg.train_dataloader.collate_fn.type)
    batch = collate([dict(inputs=torch.randint(256, (3, 36, 36), dtype=torch.uint8),
                          data_samples=DataSample()) for _ in range(2)])
    data = model.data_preprocessor(batch, True)
    losses = model(**data, mode='loss')
    assert set(losses) == {'loss', 'loss_importance', 'loss_load'}
    model.parse_losses(losses)[0].backward()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    hook.after_train(None)
    assert set(model(**data, mode='loss')) == {'loss'}


def test_experts_whose_losses_nobody_takes():
    init_default_scope('mmpretrain')
    model = MODELS.build(Config.fromfile(CONFIGS / 'cls_mlit_xxs_demo.py').model)
    for hooks, number in (([], 1), ([dict(type='mmscheme.AuxiliaryLossHook')], 0)):
        for training in (True, False):
            findings = Findings()
            check_cca(Config(dict(custom_hooks=hooks)), model, training, findings)
            assert len(findings.warnings) == number * training


def segmenter(**backbone):
    """mmseg's plain head and its Semantic FPN on one map."""
    norm = dict(type='GN', num_groups=1)
    cfg = Config(dict(default_scope='mmseg', model=dict(
        type='EncoderDecoder', data_preprocessor=dict(type='SegDataPreProcessor', size=(36, 36)),
        backbone=dict(dict(type='mmscheme.MLiT', arch=TINY), **backbone),
        neck=dict(type='FPN', in_channels=[12], out_channels=8, num_outs=1),
        decode_head=dict(type='FPNHead', in_channels=[8], in_index=[0], feature_strides=[3],
                         channels=8, num_classes=5, norm_cfg=norm, dropout_ratio=0.),
        auxiliary_head=dict(type='FCNHead', in_channels=8, in_index=0, channels=8, num_convs=1,
                            num_classes=5, norm_cfg=norm),
        train_cfg=dict(), test_cfg=dict(mode='whole'))))
    init_default_scope('mmseg')
    torch.manual_seed(0)
    return MODELS.build(cfg.model), cfg


@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize('distributed', [False, True])
def test_losses_reach_the_loss_dict_of_a_segmenter(distributed, autocast):
    model, cfg = segmenter(with_cp=autocast)
    batch = random_batch(cfg, (36, 36), 2)
    run = model
    if distributed:
        dist.init_process_group('gloo', init_method=f'tcp://127.0.0.1:{free_port()}', rank=0,
                                world_size=1)
    try:
        if distributed:
            run = MMDistributedDataParallel(model)
        attach(run)
        data = model.data_preprocessor(batch, True)
        for _ in range(2):  # an unused parameter would be an error of the second step
            model.zero_grad()
            with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
                losses = run(**data, mode='loss')
            assert {'decode.loss_ce', 'aux.loss_ce', 'loss_importance', 'loss_load'} <= set(losses)
            model.parse_losses(losses)[0].backward()
        missing = [n for n, p in model.named_parameters() if p.grad is None]
        assert not missing
        assert all(p.grad.isfinite().all() for p in model.parameters())
        assert model.backbone.layers[0].ffn.gate.weight.grad.any()
        # A prediction has none.
        assert len(model.eval().test_step(batch)) == 2
    finally:
        if distributed:
            dist.destroy_process_group()


@pytest.mark.slow
def test_the_demo_trains_and_exports(scenes, tmp_path):
    options = [f'{split}_dataloader.{key}' for split in ('train', 'val')
               for key in ('num_workers=0', 'persistent_workers=False')]
    config = tmp_path / 'tiny.py'
    config.write_text(
        f"_base_ = '{CONFIGS}/cls_mlit_xxs_demo.py'\n"
        f'model = dict(backbone=dict(arch=dict(_delete_=True, **{TINY!r}), drop_path_rate=0.1),\n'
        '             head=dict(in_channels=12))\n')
    load_tool('train').main([str(config), '--data-root', str(scenes), '--work-dir',
                             str(tmp_path / 'w'), '--cfg-options', *options,
                             'train_cfg.max_epochs=2', 'train_cfg.val_interval=2',
                             'train_dataloader.batch_size=8'])
    log = next((tmp_path / 'w').glob('*/*.log')).read_text()
    assert re.search(r'loss_importance: \d', log) and 'accuracy/top1' in log
    checkpoint = tmp_path / 'w' / 'epoch_2.pth'
    folded = fold(build_model(Config.fromfile(config)))
    load_weights(build_model(deploy_config(Config.fromfile(config))), folded.state_dict(), 'fold')
    pytest.importorskip('onnx')
    # Gates that start at zero are near to ties still, which rounding may break in another way.
    saved = torch.load(checkpoint, weights_only=True)
    for key, value in saved['state_dict'].items():
        if key.endswith(('gate.weight', 'head.layers.head.weight')):
            torch.nn.init.normal_(value)
    torch.save(saved, checkpoint)
    load_tool('deploy/export').main([str(config), str(checkpoint), '--out',
                                     str(tmp_path / 'm.onnx')])
    assert (tmp_path / 'm.onnx').stat().st_size > 0


def test_shared_experts_in_stock_backbones():
    torch.manual_seed(0)
    stock = MODELS.build(VIT)
    wrapped = SCHEMEWrapper(dict(VIT), mixer='shared_expert', num_experts=3, expansion=0.5)
    layers = [m for m in wrapped.modules() if isinstance(m, SharedExpertFFN)]
    assert [(m.v.in_features, m.v.out_features, m.num_experts) for m in layers] == [(12, 6, 3)] * 2
    assert {m.drop1.p for m in layers} == {m.drop2.p for m in layers} == {0.25}
    wrapped.train()
    with auxiliary_losses(wrapped) as losses:
        wrapped(torch.randn(2, 3, 32, 32))[0].square().sum().backward()
    assert len(losses) == 2 and all(p.grad is not None for p in wrapped.parameters())
    missing, unexpected = wrapped.load_state_dict(stock.state_dict(), strict=False)
    assert {key.split('.ffn.')[0] for key in missing} == {'layers.0', 'layers.1'}
    assert all('.ffn.layers.' in key for key in unexpected)
    # Maps, channels first and last.
    pool = SCHEMEWrapper(dict(type='mmpretrain.PoolFormer', arch=dict(
        layers=[1, 1, 1, 1], embed_dims=[8, 8, 8, 8], mlp_ratios=[2] * 4,
        layer_scale_init_value=1.), out_indices=(0, 6)), mixer='shared_expert')
    pool.eval()
    assert pool(torch.randn(1, 3, 64, 64))[-1].isfinite().all()
    with pytest.raises(TypeError, match="keep_cca: no option of mixer='shared_expert'"):
        SCHEMEWrapper(dict(VIT), mixer='shared_expert', keep_cca=True)
    with pytest.raises(TypeError, match="top_k: no option of mixer='scheme'"):
        SCHEMEWrapper(dict(VIT), top_k=2)
    with pytest.raises(ValueError, match='mixer: expected one of'):
        SCHEMEWrapper(dict(VIT), mixer='experts')
    with pytest.raises(ValueError, match='seed_from_dense'):
        SCHEMEWrapper(dict(VIT), mixer='shared_expert', seed_from_dense=True)
    with pytest.raises(ValueError, match='shared experts replace'):
        SCHEMEWrapper(dict(type='mmseg.MixVisionTransformer', embed_dims=8, num_layers=[1] * 4,
                           num_heads=[1] * 4), mixer='shared_expert')


def test_losses_of_a_stock_backbone_that_saves_memory():
    results = []
    for with_cp in (False, True):
        cfg = dict(BACKBONES['mmseg Swin'][0], with_cp=with_cp, drop_path_rate=0.)
        torch.manual_seed(0)
        model = SCHEMEWrapper(cfg, mixer='shared_expert')
        model.train()
        torch.manual_seed(1)
        images = torch.randn(2, 3, 64, 64)
        with auxiliary_losses(model) as losses:
            outs = model(images)
        (sum(out.square().mean() for out in outs) + 100 * sum(losses.values())).backward()
        results.append({n: p.grad for n, p in model.named_parameters()})
    gates = [n for n in results[0] if n.endswith('gate.weight')]
    assert len(gates) == 5 and all(results[0][n].any() for n in gates)
    assert all(g is None or torch.allclose(g, results[1][n], atol=1e-4, rtol=1e-3)
               for n, g in results[0].items())


def test_what_the_page_says():
    names = readme_names('shared experts', {})
    backbone = MODELS.build(names['model']['backbone'])
    assert sum(isinstance(m, SharedExpertFFN) for m in backbone.modules()) == 12
    assert isinstance(HOOKS.build(names['custom_hooks'][0]), AuxiliaryLossHook)
    for name in ('dense guide', 'interleaved groups'):
        cfg = Config.fromfile(REPOSITORY / 'configs' / 'upernet_scheme_s_demo.py')
        cfg.merge_from_dict({key: value for key, value in readme_names(name, {}).items()
                             if key in cfg})
        mixer = MODELS.build(cfg.model.backbone).stages[0][0].channel_mixer
        if name == 'dense guide':
            hook = HOOKS.build(cfg.default_hooks.mixing_schedule)
            assert mixer.cca is None and mixer.sample_guide and hook.factor(0.5, True) == 0
        else:
            assert mixer.interleaved == 4
            wrapper = build_optim_wrapper(torch.nn.Sequential(mixer), cfg.optim_wrapper)
            low, high = sorted({g['lr'] for g in wrapper.optimizer.param_groups})
            assert high == pytest.approx(2 * low)
