"""What the command line does to a config."""
import logging
import sys
import textwrap

import mmdet
import mmseg
import pytest
import torch
from mmengine import Config
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope
from mmengine.runner import Runner

from mmscheme.apis import config as config_module
from mmscheme.apis.config import load_config, set_data_root
from mmscheme.apis.test import build_test_runner
from mmscheme.apis.train import build_train_runner
from mmscheme.checks import check_data
from mmscheme.utils.config_query import loader_config
from mmscheme.utils.user_errors import UserErrors
from tests.bad_inputs import Box
from tests.models import stock
from tests.utils import REPOSITORY, run

FLAGSHIP = REPOSITORY / 'configs' / 'upernet_scheme_s_ade20k.py'
DEMO = REPOSITORY / 'configs' / 'upernet_scheme_s_demo.py'


def test_data_root_reaches_every_data_set_and_evaluator():
    cfg = Config.fromfile(stock(mmdet, 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'))
    dataset = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[
        dataset, dict(type='RepeatDataset', times=2, dataset=dataset)])
    set_data_root(cfg, '/new')
    first, second = cfg.train_dataloader.dataset.datasets
    assert first.data_root == second.dataset.data_root == '/new'
    assert cfg.val_dataloader.dataset.data_root == '/new'
    assert cfg.test_evaluator.ann_file == '/new/annotations/instances_val2017.json'


@pytest.mark.parametrize('more', [{}, dict(test_mode=True), dict(filter_cfg=dict(min_size=9))])
@pytest.mark.parametrize('inside', [True, False])
def test_one_data_root_over_two(inside, more):
    """Filters and modes do not make other files."""
    cfg = Config.fromfile(stock(mmdet, 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'))
    first = cfg.train_dataloader.dataset
    second = dict(first, data_root='/other/', **{**more})
    if inside:
        cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[first, second])
    else:
        cfg.test_dataloader.dataset = second
    with pytest.raises(ValueError, match='data/coco/, /other/|/other/, data/coco/'):
        set_data_root(cfg, '/new')
    second.update(data_root='data/coco/other', ann_file='annotations/second.json')
    cfg.test_evaluator.ann_file = 'data/coco/other/annotations/second.json'
    cfg.merge_from_dict({'test_dataloader.dataset.ann_file': 'annotations/second.json'})
    if inside:
        cfg.train_dataloader.dataset.datasets[1].update(second)
    else:
        cfg.test_dataloader.dataset.data_root = second['data_root']
    set_data_root(cfg, '/new')
    assert cfg.test_evaluator.ann_file == '/new/annotations/second.json'


def test_schedulers_follow_a_length_given_on_the_command_line():
    warm_up, decay = load_config(FLAGSHIP, cfg_options={'train_cfg.max_iters': 240}
                                 ).param_scheduler
    assert (warm_up.begin, warm_up.end, decay.begin, decay.end) == (0, 2, 2, 240)
    for iterations in (8, 24, 107, 700):
        cfg = load_config(FLAGSHIP, cfg_options={'train_cfg.max_iters': iterations})
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.)
        schedulers = [PARAM_SCHEDULERS.build(dict(s, optimizer=optimizer))
                      for s in cfg.param_scheduler]
        rates = []
        for _ in range(iterations):
            rates.append(optimizer.param_groups[0]['lr'])
            optimizer.step()
            for scheduler in schedulers:
                scheduler.step()
        assert max(rates[:4 + iterations // 20]) > 0.6 and rates[-1] < 0.2
    own = load_config(FLAGSHIP, cfg_options={'train_cfg.max_iters': 240,
                                             'param_scheduler.0.end': 20})
    assert own.param_scheduler[1].end == 160000
    same = load_config(FLAGSHIP, cfg_options={'train_cfg.val_interval': 10})
    assert same.param_scheduler[0].end == 1500
    epochs = load_config(stock(mmdet, 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'),
                         cfg_options={'train_cfg.max_epochs': 24}).param_scheduler
    assert epochs[1].end == 24 and epochs[1].milestones == [16, 22] and epochs[0].end == 500


def test_work_dir_comes_from_the_command_line_the_config_or_its_name(tmp_path):
    assert load_config(FLAGSHIP).work_dir == 'work_dirs/upernet_scheme_s_ade20k'
    path = tmp_path / 'mine.py'
    path.write_text(f"_base_ = '{FLAGSHIP}'\nwork_dir = 'there'\n")
    assert load_config(path).work_dir == 'there'
    assert load_config(path, work_dir='here').work_dir == 'here'


@pytest.mark.slow
def test_learning_rate_scales_with_the_batch(scenes, tmp_path, caplog):
    for scale, expected in ((False, 1e-3), (True, 1e-3 * 2 / 8)):
        cfg = load_config(DEMO, str(tmp_path), {'train_dataloader.batch_size': 2}, str(scenes))
        runner = build_train_runner(cfg, auto_scale_lr=scale)
        lines = [logging.makeLogRecord(dict(msg=f'{text} -- x')) for text in (
            'paramwise_options', 'iter')]
        assert [bool(runner.logger.filter(line)) for line in lines] == [False, True]
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        runner.scale_lr(runner.optim_wrapper, runner.auto_scale_lr)
        assert runner.optim_wrapper.optimizer.param_groups[0]['lr'] == pytest.approx(expected)


@pytest.mark.slow
def test_stock_configs_get_safe_checkpoints(scenes, tmp_path):
    """A config that names nothing of ours trains and tests through our tools."""
    path = tmp_path / 'stock.py'
    path.write_text(f"""_base_ = '{stock(mmseg, '_base_/default_runtime.py')}'
norm = dict(type='BN')
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 64)),
    backbone=dict(type='ResNetV1c', depth=18, norm_cfg=norm),
    decode_head=dict(type='FCNHead', in_channels=512, in_index=3, channels=8, num_convs=1,
                     num_classes=9, norm_cfg=norm),
    test_cfg=dict(mode='whole'))
pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', reduce_zero_label=True),
            dict(type='RandomCrop', crop_size=(64, 64)), dict(type='PackSegInputs')]
train_dataloader = dict(
    batch_size=2, sampler=dict(type='InfiniteSampler'),
    dataset=dict(type='BaseSegDataset', data_root='{scenes}', reduce_zero_label=True,
                 metainfo=dict(classes=tuple('abcdefghi')), pipeline=pipeline,
                 data_prefix=dict(img_path='images/training',
                                  seg_map_path='annotations/training')))
test_dataloader = dict(sampler=dict(type='DefaultSampler', shuffle=False),
                       dataset=dict(train_dataloader['dataset'], pipeline=[
                           p for p in pipeline if p['type'] != 'RandomCrop']))
test_evaluator = dict(type='IoUMetric')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01))
param_scheduler = dict(type='OneCycleLR', eta_max=0.1, total_steps=4, by_epoch=False)
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2)
default_hooks = dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1))
""")
    build_train_runner(load_config(path, str(tmp_path / 'w'))).train()
    checkpoint = str(tmp_path / 'w' / 'iter_2.pth')
    assert 'message_hub' in torch.load(checkpoint, weights_only=True)
    assert 'mIoU' in build_test_runner(load_config(path, str(tmp_path / 't')), checkpoint).test()
    more = load_config(path, str(tmp_path / 'w'), {'train_cfg.max_iters': 3})
    runner = build_train_runner(more, resume='auto')
    assert isinstance(runner, Runner)
    runner.train()
    assert runner.iter == 3


@pytest.mark.parametrize('iters', [1000, 250])
def test_schedulers_follow_another_length(iters, tmp_path):
    path = tmp_path / 'a.py'
    path.write_text("""model = dict()
train_cfg = dict(type='IterBasedTrainLoop', max_iters=500)
param_scheduler = [
    dict(type='LinearLR', begin=0, end=100, by_epoch=False),
    dict(type='OneCycleLR', total_steps=500, by_epoch=False),
    dict(type='CosineAnnealingLR', begin=100, T_max=400, by_epoch=False),
    dict(type='MultiStepLR', milestones=[300, 400], by_epoch=False)]
""")
    ratio = iters / 500
    found = load_config(path, str(tmp_path), {'train_cfg.max_iters': iters}).param_scheduler
    linear, one_cycle, cosine, steps = found
    assert linear.end == 100 * ratio and one_cycle.total_steps == iters
    assert (cosine.begin, cosine.T_max) == (100 * ratio, 400 * ratio)
    assert steps.milestones == [300 * ratio, 400 * ratio]


def flat(node, place=''):
    if isinstance(node, (dict, list, tuple)) and node:
        items = node.items() if isinstance(node, dict) else enumerate(node)
        return {k: v for key, child in items for k, v in flat(child, f'{place}.{key}').items()}
    return {place.lstrip('.'): node}


@pytest.mark.parametrize('path', ['mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
                                  'retinanet/retinanet_r18_fpn_1x_coco.py'])
def test_a_stock_config_changes_as_the_log_says_or_not_at_all(path, tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(config_module, 'print_log', lambda line, **kwargs: lines.append(line))
    before = flat(Config.fromfile(stock(mmdet, path)).to_dict())

    def changed(**options):
        cfg = load_config(stock(mmdet, path), str(tmp_path))
        cfg.train_dataloader.num_workers = 0  # persistent workers need some
        runner = build_train_runner(cfg, preflight=False, **options)
        after = flat(runner.cfg.to_dict())
        return {k for k in {*before, *after} if before.get(k, 0) != after.get(k, 0)} - {
            'train_dataloader.num_workers'}

    assert changed(stock_runtime=True) == {'work_dir', 'launcher'} and not lines
    keys = changed() - {'work_dir', 'launcher'}
    places = [line.partition(':')[0] for line in lines]
    assert {'default_hooks.checkpoint.type', 'default_hooks.logger.type', 'train_cfg.type',
            'train_dataloader.persistent_workers', 'train_dataloader.dataset',
            'val_dataloader.dataset', 'default_hooks.plain_checkpoint',
            'default_hooks.resumed_schedule'} == set(places)
    assert all(any(key == p or key.startswith(f'{p}.') for p in places) for key in keys)
    assert all(any(key == p or key.startswith(f'{p}.') for key in keys) for p in places)
    assert all('--stock-runtime' in line for line in lines)


@pytest.mark.slow
def test_building_a_model_leaves_mmengine_as_it_is():
    """In a process that has not used one of our tools, and until it asks for safe loading."""
    script = """
        from mmengine.registry import MODELS
        from mmengine.runner.checkpoint import CheckpointLoader
        stock = dict(CheckpointLoader._schemes)
        import mmscheme
        mmscheme.register_all_modules()
        MODELS.build(dict(type='mmscheme.SCHEMEformer', arch='s12'))
        assert CheckpointLoader._schemes == stock
        {how}
        changed = [k for k, v in CheckpointLoader._schemes.items() if v is not stock.get(k)]
        assert sorted(changed) == sorted([*stock, 'hf://']), changed
        """
    for how in ('mmscheme.use_safe_checkpoints()', 'import mmscheme.safe_checkpoints'):
        run(sys.executable, '-c', textwrap.dedent(script).format(how=how))


@pytest.mark.slow
def test_none_switches_a_hook_off(scenes, tmp_path):
    """Any of default_hooks, not only the six that mmengine knows."""

    config = Box(tmp_path, scenes).config('seg')

    def hooks(off=()):
        options = {f'default_hooks.{name}': None for name in off}
        runner = build_train_runner(load_config(config, str(tmp_path), options), preflight=False)
        return sorted(type(hook).__name__ for hook in runner.hooks)

    every = hooks()
    off = ('non_finite', 'mixing_schedule', 'plain_checkpoint', 'timer', 'logger', 'checkpoint')
    gone = [name for name in every if name not in hooks(off)]
    assert gone == ['CheckpointHook', 'IterTimerHook', 'LoggerHook', 'MixingScheduleHook',
                    'NonFiniteLossHook', 'PlainCheckpointHook']


@pytest.mark.parametrize('workers', [0, 2])
def test_a_loader_that_torch_takes(workers):
    cfg = Config(dict(train_dataloader=dict(
        num_workers=workers, persistent_workers=True, batch_size=1, sampler=dict(
            type='DefaultSampler'), dataset=dict(type='BaseDataset', lazy_init=True))))
    assert loader_config(cfg, 'train').get('persistent_workers', False) == bool(workers)
    assert cfg.train_dataloader.persistent_workers
    init_default_scope('mmengine')
    assert Runner.build_dataloader(dict(loader_config(cfg, 'train'), dataset=[1])
                                   ).num_workers == workers


def test_data_sets_that_are_elsewhere_are_not_looked_for():
    cfg = Config(dict(default_scope='mmpretrain', model=dict(), train_dataloader=dict(
        dataset=dict(type='mmpretrain.CIFAR10', data_root='/no', split='train', pipeline=[]))))
    check_data(cfg, ('train', )).finish()
    cfg.train_dataloader.dataset = dict(type='mmseg.ADE20KDataset', data_root='s3://bucket/ade')
    check_data(cfg, ('train', )).finish()
    cfg.train_dataloader.dataset.data_root = '/no'
    with pytest.raises(UserErrors, match='data root not found: /no'):
        check_data(cfg, ('train', )).finish()
