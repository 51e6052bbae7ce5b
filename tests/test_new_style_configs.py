"""Configs of the new style, which name classes and no default scope, through every tool."""
import json
import shutil
from collections import namedtuple

import pytest
import torch
from mmengine import Config
from mmengine.hooks import CheckpointHook as StockCheckpointHook
from mmengine.model import PretrainedInit
from mmengine.registry import init_default_scope
from mmengine.runner import IterBasedTrainLoop as StockIterBasedTrainLoop
from mmseg.models import SegDataPreProcessor
from torch import nn

from mmscheme.apis.config import _replace_sync_bn, prepare_run
from mmscheme.checks import Findings
from mmscheme.checks.checkpoint import check_named_files
from mmscheme.checks.model import check_sizes
from mmscheme.checks.resources import check_disk
from mmscheme.datasets.scenes import THINGS
from mmscheme.utils.config_query import scope_of
from tests.commands import load_tool

RUNTIME = '''
from mmengine.hooks import CheckpointHook, LoggerHook
from mmengine.optim import OptimWrapper
from mmengine.runner import IterBasedTrainLoop, TestLoop, ValLoop
from mmengine.visualization import LocalVisBackend
from mmdet.visualization import DetLocalVisualizer
from torch.optim import SGD

default_scope = None
default_hooks = dict(logger=dict(type=LoggerHook, interval=1),
                     checkpoint=dict(type=CheckpointHook, by_epoch=False, interval=1))
visualizer = dict(type=DetLocalVisualizer, vis_backends=[dict(type=LocalVisBackend)])
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.01))
train_cfg = dict(type=IterBasedTrainLoop, max_iters=2, val_interval=2)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
'''

DETECTOR = '''
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, Resize
from mmdet.evaluation import CocoMetric
from mmdet.models import (FPN, DetDataPreprocessor, FocalLoss, L1Loss, ResNet, RetinaHead,
                          RetinaNet)
from mmdet.models.task_modules import (AnchorGenerator, DeltaXYWHBBoxCoder, MaxIoUAssigner,
                                       PseudoSampler)
from mmengine.config import read_base
from mmengine.dataset import DefaultSampler, InfiniteSampler
from tests.commands import load_tool


with read_base():
    from .runtime import *

model = dict(
    type=RetinaNet,
    data_preprocessor=dict(type=DetDataPreprocessor, pad_size_divisor=32),
    backbone=dict(type=ResNet, depth=18, base_channels=8),
    neck=dict(type=FPN, in_channels=[8, 16, 32, 64], out_channels=16, start_level=1, num_outs=3),
    bbox_head=dict(
        type=RetinaHead, num_classes={num_classes}, in_channels=16, feat_channels=16,
        anchor_generator=dict(type=AnchorGenerator, scales=[4], ratios=[1.0],
                              strides=[8, 16, 32]),
        bbox_coder=dict(type=DeltaXYWHBBoxCoder), loss_cls=dict(type=FocalLoss),
        loss_bbox=dict(type=L1Loss)),
    train_cfg=dict(
        assigner=dict(type=MaxIoUAssigner, pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
        sampler=dict(type=PseudoSampler), allowed_border=-1, pos_weight=-1),
    test_cfg=dict(nms_pre=100, min_bbox_size=0, score_thr=0.0,
                  nms=dict(type='nms', iou_threshold=0.5), max_per_img=10))
pipeline = [dict(type=LoadImageFromFile), dict(type=LoadAnnotations, with_bbox=True),
            dict(type=Resize, scale=(80, 64), keep_ratio=True), dict(type=PackDetInputs)]
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type=InfiniteSampler),
    dataset=dict(type=CocoDataset, data_root='{scenes}', data_prefix=dict(img='train2017'),
                 ann_file='annotations/instances_train2017.json',
                 metainfo=dict(classes={classes}), pipeline=pipeline))
val_dataloader = dict(
    num_workers=0, sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(type=CocoDataset, data_root='{scenes}', data_prefix=dict(img='val2017'),
                 ann_file='annotations/instances_val2017.json', test_mode=True,
                 metainfo=dict(classes={classes}), pipeline=pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type=CocoMetric, metric='bbox',
                     ann_file='{scenes}/annotations/instances_val2017.json')
test_evaluator = val_evaluator
'''


@pytest.fixture
def detector(scenes, tmp_path):
    (tmp_path / 'runtime.py').write_text(RUNTIME)
    path = tmp_path / 'detector.py'
    path.write_text(DETECTOR.format(scenes=scenes, classes=tuple(THINGS),
                                    num_classes=len(THINGS)))
    return path


@pytest.mark.slow
def test_a_detector_through_the_tools(detector, scenes, tmp_path, capsys):
    work_dir = tmp_path / 'w'
    load_tool('misc/check_config').main([str(detector), '--work-dir', str(work_dir)])
    assert '0 errors' in capsys.readouterr().out
    load_tool('train').main([str(detector), '--work-dir', str(work_dir)])
    checkpoint = work_dir / 'iter_2.pth'
    # Ours: a plain checkpoint, with the position for an exact resume.
    assert 'train_position' in torch.load(checkpoint, weights_only=True)['message_hub'][
        'runtime_info']
    load_tool('test').main([
        str(detector), str(checkpoint), '--work-dir', str(tmp_path / 't'), '--out',
        str(tmp_path / 'found.pkl'), '--report', str(tmp_path / 'r')])
    assert (tmp_path / 'found.pkl').exists() and (tmp_path / 'r' / 'report.html').exists()
    capsys.readouterr()
    load_tool('analysis_tools/get_flops').main([str(detector), '--json'])
    counts = json.loads(capsys.readouterr().out)
    assert (counts['height'], counts['width']) == (64, 96) and counts['parts']['total']['macs']
    image = next((scenes / 'val2017').iterdir())
    load_tool('predict').main([str(detector), str(checkpoint), str(image), '--out',
                               str(tmp_path / 'p')])
    assert len(list((tmp_path / 'p').iterdir())) == 1
    # The config that the training has left behind, its classes written as dotted names.
    load_tool('misc/check_config').main(
        [str(work_dir / 'detector.py'), '--work-dir', str(work_dir)])
    assert '0 errors' in capsys.readouterr().out


@pytest.mark.parametrize('kind, expected', [
    ('mmdet.RetinaNet', 'mmdet'), ('mmseg.models.EncoderDecoder', 'mmseg'),
    ('mmpretrain.ImageClassifier', 'mmpretrain'), ('RetinaNet', 'mmengine'),
    ('no.Such', 'mmengine'), (None, 'mmengine')])
def test_the_scope_is_that_of_the_model(kind, expected):
    cfg = Config(dict(default_scope=None, model=dict(type=kind)))
    init_default_scope('mmdet')  # what another config left behind does not count
    assert scope_of(cfg) == scope_of(Config(dict(model=dict(cfg.model)))) == expected
    assert scope_of(Config(dict(model=dict(type='mmseg.SegTTAModel', module=cfg.model)))) == (
        expected)
    assert scope_of(Config(dict(cfg, default_scope='own'))) == 'own'


def test_the_scope_of_a_class_that_a_user_has_derived():
    from mmseg.models import EncoderDecoder

    class Own(EncoderDecoder):
        pass

    assert scope_of(Config(dict(default_scope=None, model=dict(type=Own)))) == 'mmseg'


def prepared(loop, hook, scope='mmdet', **train_cfg):
    cfg = Config(dict(default_scope=scope, model=dict(), work_dir='w',
                      train_cfg=dict(type=loop, **train_cfg), custom_hooks=[dict(type=hook)],
                      default_hooks=dict(checkpoint=dict(type=hook, interval=7))))
    prepare_run(cfg, ('train', ), preflight=False)
    return cfg


@pytest.mark.parametrize('scope', ['mmdet', 'mmengine', None])
@pytest.mark.parametrize('loop, hook', [
    ('IterBasedTrainLoop', 'CheckpointHook'),
    ('mmengine.IterBasedTrainLoop', 'mmengine.CheckpointHook'),
    ('mmengine.runner.IterBasedTrainLoop', 'mmengine.hooks.CheckpointHook'),
    ('mmengine.runner.loops.IterBasedTrainLoop', 'mmengine.hooks.checkpoint_hook.CheckpointHook'),
    (StockIterBasedTrainLoop, StockCheckpointHook)])
def test_stock_loops_and_hooks_are_replaced_by_whatever_name(loop, hook, scope):
    cfg = prepared(loop, hook, scope, max_iters=3)
    assert cfg.train_cfg == dict(type='mmscheme.IterBasedTrainLoop', max_iters=3)
    assert cfg.default_hooks.checkpoint == dict(type='mmscheme.CheckpointHook', interval=7)
    assert cfg.default_hooks.logger.type == 'mmscheme.LoggerHook'
    assert cfg.custom_hooks == [dict(type='mmscheme.CheckpointHook')]


def test_checkpoints_of_a_config_that_names_no_hooks():
    for hooks in (None, dict(checkpoint=dict(interval=1), logger={})):
        cfg = Config(dict(model=dict(), default_hooks=hooks,
                          train_cfg=dict(by_epoch=True, max_epochs=3)))
        prepare_run(cfg, ('train', ), preflight=False)
        assert cfg.train_cfg == dict(type='mmscheme.EpochBasedTrainLoop', max_epochs=3)
        assert cfg.default_hooks.checkpoint == dict(type='mmscheme.CheckpointHook', interval=1)
        assert cfg.default_hooks.logger.type == 'mmscheme.LoggerHook'


def test_what_a_user_has_derived_from_them_stays():

    class OwnLoop(StockIterBasedTrainLoop):
        pass

    class OwnHook(StockCheckpointHook):
        pass

    cfg = prepared(OwnLoop, OwnHook)
    assert cfg.train_cfg.type is OwnLoop and cfg.default_hooks.checkpoint.type is OwnHook


@pytest.mark.parametrize('kind', ['Pretrained', PretrainedInit, 'mmengine.model.PretrainedInit'])
def test_files_that_are_missing(kind):
    findings = Findings()
    init = dict(type=kind, checkpoint='no.pth')
    check_named_files(Config(dict(model=dict(backbone=dict(init_cfg=init)))), findings)
    assert findings.errors == ['checkpoint not found: no.pth (model.backbone.init_cfg.checkpoint)']


@pytest.mark.parametrize('kind', ['mmseg.SegDataPreProcessor', SegDataPreProcessor])
def test_sizes(kind):
    findings = Findings()
    check_sizes(Config(dict(model=dict(data_preprocessor=dict(type=kind)))), findings)
    assert 'expected either size or size_divisor' in findings.errors[0]


@pytest.mark.parametrize('kind', ['SGD', torch.optim.SGD, 'torch.optim.sgd.SGD'])
def test_moments_of_the_optimizer_on_the_disk(kind, tmp_path, monkeypatch):
    """SGD without momentum keeps nothing beside the weights."""
    usage = namedtuple('usage', 'total used free')
    cfg = Config(dict(model=dict(), work_dir=str(tmp_path), default_hooks=dict(checkpoint=dict()),
                      optim_wrapper=dict(optimizer=dict(type=kind, lr=0.1))))
    for free, faults in ((399, 1), (600, 0)):
        monkeypatch.setattr(shutil, 'disk_usage', lambda path, free=free: usage(0, 0, free))
        findings = Findings()
        check_disk(cfg, nn.Linear(10, 10, bias=False), findings)
        assert len(findings.errors) == faults


@pytest.mark.parametrize('kind', ['SyncBN', nn.SyncBatchNorm, 'torch.nn.SyncBatchNorm'])
def test_sync_bn_on_a_cpu(kind):
    model = Config(dict(model=dict(neck=[dict(norm_cfg=dict(type=kind))]))).model
    assert _replace_sync_bn(model) and model.neck[0].norm_cfg.type == 'BN'
