"""Every shipped config builds, trains a step, predicts, and can be written out again."""
import pytest
import torch
from mmengine import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from tests.conftest import REPOSITORY

CONFIGS = sorted((REPOSITORY / 'configs').glob('*.py'))


def segmentation_batch(num_classes, size=(64, 64), batch=2):
    samples = []
    for _ in range(batch):
        labels = torch.randint(0, num_classes, (1, *size))
        labels[:, :3] = 255
        samples.append(SegDataSample(gt_sem_seg=PixelData(data=labels),
                                     metainfo=dict(img_shape=size, ori_shape=size)))
    return dict(inputs=[torch.randint(0, 256, (3, *size)).to(torch.uint8) for _ in range(batch)],
                data_samples=samples)


def build(cfg):
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    cfg.model.data_preprocessor.size = (64, 64)
    return MODELS.build(cfg.model)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_config_trains_a_step_and_predicts(path, tmp_path):
    cfg = Config.fromfile(path)
    cfg.dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').to_dict() == cfg.to_dict()
    model = build(cfg)
    model.init_weights()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    batch = segmentation_batch(cfg.model.decode_head.num_classes)
    data = model.data_preprocessor(batch, training=True)
    losses = model.train()(**data, mode='loss')
    total, _ = model.parse_losses(losses)
    assert total.isfinite()
    total.backward()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    optim_wrapper.optimizer.step()
    with torch.no_grad():
        results = model.eval().test_step(batch)
    assert all(r.pred_sem_seg.data.shape == (1, 64, 64) for r in results)
    assert all(r.seg_logits.data.isfinite().all() for r in results)


def test_no_weight_decay_on_norms_alpha_layer_scale_and_position_embedding():
    cfg = Config.fromfile(REPOSITORY / 'configs' / 'upernet_scheme_s_ade20k.py')
    cfg.model.backbone.pos_embed = True
    model = build(cfg)
    names = {id(p): n for n, p in model.named_parameters()}
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    decayed = {names[id(p)] for group in optimizer.param_groups for p in group['params']
               if group['weight_decay'] > 0}
    assert {group['lr'] for group in optimizer.param_groups} == {6e-5}
    assert {group['weight_decay'] for group in optimizer.param_groups} == {0, 0.01}
    free = set(names.values()) - decayed
    for part in ('alpha_logit', 'layer_scale', 'pos_embed', 'norm', '.bn.'):
        of_part = {n for n in names.values() if part in n}
        assert of_part and of_part <= free, part
    assert {n for n in free if n.endswith('weight')} == {
        n for n in names.values() if n.endswith('weight') and ('norm' in n or '.bn.' in n)}


def test_sizes_and_the_flagship_recipe():
    widths = {}
    for name, arch in (('s', 's12'), ('s24', 's24'), ('s36', 's36'), ('m36', 'm36')):
        cfg = Config.fromfile(REPOSITORY / 'configs' / f'upernet_scheme_{name}_ade20k.py')
        backbone = cfg.model.backbone
        assert (backbone.arch, backbone.groups, backbone.expansion) == (arch, (4, 4), 8)
        assert backbone.cca and backbone.drop_path_rate == 0.3
        assert cfg.default_hooks.mixing_schedule.decay[1] < 1
        assert cfg.train_cfg.max_iters == 160000 == cfg.param_scheduler[1].end
        assert cfg.auto_scale_lr.base_batch_size == 16
        widths[name] = cfg.model.decode_head.in_channels
    assert widths['s'] == widths['s36'] != widths['m36']


def test_dense_baseline_is_three_values():
    cfg = Config.fromfile(REPOSITORY / 'configs' / 'upernet_scheme_s_ade20k.py')
    cfg.merge_from_dict({'model.backbone.groups': (1, 1), 'model.backbone.expansion': 4,
                         'model.backbone.cca': False})
    assert sum(p.numel() for p in build(cfg).backbone.parameters()) == 16535592 - 574696
