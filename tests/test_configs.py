"""Every shipped config builds, trains a step, predicts, and can be written out again."""
import pytest
import torch
from mmengine import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

from tests.models import build, check_step_and_prediction, shrink, slow_but
from tests.utils import REPOSITORY

CONFIGS = sorted((REPOSITORY / 'configs').glob('*.py'))


@pytest.mark.parametrize('path', slow_but(CONFIGS, '_scheme_s_'), ids=lambda p: p.stem)
def test_config_trains_a_step_and_predicts(path, tmp_path):
    cfg = Config.fromfile(path)
    cfg.dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').to_dict() == cfg.to_dict()
    shrink(cfg)
    rcnn = (cfg.model.get('test_cfg') or {}).get('rcnn')
    if rcnn:
        rcnn.score_thr = 0.  # random weights are sure of nothing, and masks want a box
    elif cfg.default_scope == 'mmdet':
        cfg.model.test_cfg.score_thr = 0.
    model = build(cfg)
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    results = check_step_and_prediction(model, cfg)
    if cfg.default_scope == 'mmdet':
        assert all(len(r.pred_instances) for r in results)
        assert all(('masks' in r.pred_instances) == (cfg.model.type == 'MaskRCNN')
                   for r in results)
    optim_wrapper.optimizer.step()
    assert all(p.isfinite().all() for p in model.parameters())


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


@pytest.mark.parametrize('task, dataset', [
    ('mask_rcnn', 'coco'), ('retinanet', 'coco'), ('semantic_fpn', 'ade20k'),
    ('segformer', 'ade20k'), ('upernet', 'ade20k'), ('cls', 'in1k')])
def test_sizes_share_the_recipe_and_the_baseline_is_three_values(task, dataset):

    def differences(name, other):
        """The keys of two configs with different values, and the values of the second."""
        a, b = (Config.fromfile(REPOSITORY / 'configs' / n)._cfg_dict.to_dict()
                for n in (name, other))
        return dict(_differences(a, b))

    flagship = f'{task}_scheme_s_{dataset}.py'
    for size in ('s24', 's36', 'm36')[:dict(retinanet=2, segformer=1).get(task, 3)]:
        changed = differences(flagship, f'{task}_scheme_{size}_{dataset}.py')
        assert changed.pop('model.backbone.arch') == size
        if task == 'cls':  # more stochastic depth in the larger ones, as published
            rates = dict(s24=None, s36=0.2, m36=0.3)
            assert changed.pop('model.backbone.drop_path_rate', None) == rates[size]
        assert all(key.endswith('in_channels') for key in changed)
        assert bool(changed) == (size == 'm36')
    assert differences(flagship, f'{task}_ppaa_s_{dataset}.py') == {
        'model.backbone.groups': (1, 1), 'model.backbone.expansion': 4,
        'model.backbone.cca': False}


def _differences(a, b, path=''):
    if isinstance(a, dict) and isinstance(b, dict) and set(a) == set(b):
        for key in a:
            yield from _differences(a[key], b[key], f'{path}.{key}' if path else key)
    elif a != b:
        yield path, b


def test_recipes():
    """What was published for each task (PoolFormer's and Swin's recipes)."""
    def recipe(name):
        cfg = Config.fromfile(REPOSITORY / 'configs' / name)
        optimizer = cfg.optim_wrapper.optimizer
        assert optimizer.type == 'AdamW'
        decay = cfg.default_hooks.mixing_schedule.decay
        assert decay is None if name.endswith('in1k.py') else decay[1] < 1
        backbone = cfg.model.backbone
        assert (backbone.arch, backbone.groups, backbone.expansion) == ('s12', (4, 4), 8)
        assert backbone.cca
        return cfg, (optimizer.lr, optimizer.weight_decay, cfg.auto_scale_lr.base_batch_size,
                     backbone.get('drop_path_rate', 0))

    cfg, numbers = recipe('upernet_scheme_s_ade20k.py')
    assert numbers == (6e-5, 0.01, 16, 0.3)
    assert cfg.train_cfg.max_iters == 160000 == cfg.param_scheduler[1].end
    cfg, numbers = recipe('segformer_scheme_s_ade20k.py')
    assert numbers == (6e-5, 0.01, 16, 0.1) and cfg.model.auxiliary_head is None
    assert cfg.optim_wrapper.paramwise_cfg.custom_keys.decode_head == dict(lr_mult=10)
    cfg, numbers = recipe('semantic_fpn_scheme_s_ade20k.py')
    assert numbers == (2e-4, 1e-4, 32, 0)
    assert cfg.train_cfg.max_iters == 40000 == cfg.param_scheduler.end
    assert cfg.param_scheduler.power == 0.9
    assert [step.type for step in cfg.test_dataloader.dataset.pipeline][1:3] == [
        'Resize', 'ResizeToMultiple']
    _, aligned, *_ = cfg.tta_pipeline[1].transforms
    assert aligned == [cfg.test_dataloader.dataset.pipeline[2]]
    assert aligned[0].size_divisor == 32
    cfg, numbers = recipe('cls_scheme_s_in1k.py')
    assert numbers == (1e-3, 0.05, 1024, 0.1)
    warm_up, cosine = cfg.param_scheduler
    assert (warm_up.end, cosine.begin, cosine.end, cosine.eta_min) == (5, 5, 300, 1e-5)
    assert cfg.train_cfg.max_epochs == 300
    assert [(a.type, a.alpha) for a in cfg.model.train_cfg.augments] == [('Mixup', 0.8),
                                                                         ('CutMix', 1.0)]
    for name, rate in (('mask_rcnn_scheme_s_coco.py', 2e-4), ('retinanet_scheme_s_coco.py', 1e-4)):
        cfg, numbers = recipe(name)
        assert numbers == (rate, 1e-4, 16, 0)
        assert cfg.train_cfg.max_epochs == 12 and cfg.param_scheduler[1].milestones == [8, 11]
        assert (cfg.param_scheduler[0].begin, cfg.param_scheduler[0].end) == (0, 500)
        assert cfg.param_scheduler[1].gamma == 0.1
    longer = Config.fromfile(REPOSITORY / 'configs' / 'mask_rcnn_scheme_s_3x_coco.py')
    assert longer.train_cfg.max_epochs == 36 == longer.param_scheduler[1].end
    scales = longer.train_dataloader.dataset.pipeline[2].scales
    assert scales[0] == (1333, 480) and scales[-1] == (1333, 800)


@pytest.mark.parametrize('size, published', [
    ('s', 11830336 - 12), ('s24', 21156568 - 24), ('s36', 30482800 - 36), ('m36', 55206448 - 36)])
def test_classifiers_have_the_published_counts(size, published):
    """Less one: the authors mix by two scalars a block."""
    cfg = Config.fromfile(REPOSITORY / 'configs' / f'cls_scheme_{size}_in1k.py')
    init_default_scope('mmpretrain')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert sum(p.numel() for p in model.parameters()) == published


def test_dense_baseline_has_the_published_count():
    cfg = Config.fromfile(REPOSITORY / 'configs' / 'upernet_ppaa_s_ade20k.py')
    assert sum(p.numel() for p in build(cfg).backbone.parameters()) == 16535592 - 574696
