"""Multiply-adds against formulas, mmengine's counter and published counts."""
import json
import logging
import sys

import mmdet
import mmpretrain
import mmseg
import pytest
import torch
from mmengine import Config
from mmengine.analysis import FlopAnalyzer
from mmengine.logging import MMLogger
from mmengine.runner import CheckpointLoader

from mmscheme.analysis.complexity import count_config, count_module
from mmscheme.analysis.random_batch import input_shape
from mmscheme.apis.config import load_config
from mmscheme.layers import BlockDiagonalMLP, SelfAttention
from mmscheme.models import SCHEMEformer
from tests.models import stock
from tests.utils import REPOSITORY, run

DENSE = dict(groups=(1, 1), expansion=4, cca=False)


def count(module, *inputs):
    return count_module(module, lambda: module(*inputs))


@pytest.mark.parametrize('groups, expansion', [((4, 4), 8), ((1, 2), 3), ((1, 1), 4)])
@pytest.mark.parametrize('shape', [(2, 32, 5, 7), (2, 35, 32)])
def test_ffn_equals_its_formula(groups, expansion, shape):
    ffn = BlockDiagonalMLP(32, 32 * expansion, groups)
    assert count(ffn, torch.zeros(shape))[''] == 70 * 32 * 32 * expansion * sum(
        1 / g for g in groups)


def test_attention_equals_its_formula():
    attention = SelfAttention(64).eval()
    tokens, dims = 5 * 9, 64
    counts = count(attention, torch.zeros(3, dims, 5, 9))
    assert counts[''] == 3 * (4 * tokens * dims**2 + 2 * tokens**2 * dims)


@pytest.mark.parametrize('arguments, published', [({}, 1.76e9), (DENSE, 2.55e9)])
def test_backbone_agrees_with_mmengine_and_the_published_counts(arguments, published):
    backbone = SCHEMEformer(**arguments).eval()
    image = torch.zeros(1, 3, 224, 224)
    macs = count(backbone, image)['']
    assert macs == pytest.approx(published, rel=0.02)
    # mmengine's counter traces the graph; it has no formula for fused attention.
    operators = FlopAnalyzer(backbone, image).unsupported_ops_warnings(False).by_operator()
    attention = sum(depth * 2 * (size * size)**2 * dims
                    for depth, size, dims in ((6, 14, 320), (2, 7, 512)))
    assert macs == operators['conv'] + operators['linear'] + attention


def test_training_counts_cca_as_published():
    backbone = SCHEMEformer()
    image = torch.zeros(1, 3, 224, 224)
    in_evaluation = count(backbone.eval(), image)['']
    assert count(backbone.train(), image)[''] - in_evaluation == pytest.approx(0.39e9, rel=0.02)


def test_parts_of_a_segmenter():
    cfg = load_config(REPOSITORY / 'configs' / 'upernet_scheme_s_demo.py')
    parts = count_config(cfg).parts
    assert parts['total'] == tuple(
        sum(parts[k][i] for k in ('backbone', 'neck', 'heads')) for i in range(2))
    assert parts['backbone'] == tuple(
        sum(parts[k][i] for k in ('token mixers', 'channel mixers', 'other')) for i in range(2))
    # 44-e8: 4 C^2 a position, and the convolutions of stem and steps, at 128x128.
    stages = [(2, 64, 32), (2, 128, 16), (6, 320, 8), (2, 512, 4)]
    assert parts['channel mixers'].macs == sum(d * 4 * c * c * s * s for d, c, s in stages)
    widths = [3, 64, 128, 320, 512]
    assert parts['other'].macs == sum(
        (49 if i == 0 else 9) * widths[i] * c * s * s for i, (_, c, s) in enumerate(stages))
    training = count_config(cfg, training=True).parts
    assert training['channel mixers'].macs > parts['channel mixers'].macs
    assert training['token mixers'] == parts['token mixers']
    auxiliary = training['heads'].macs - parts['heads'].macs
    assert auxiliary == 8 * 8 * (320 * 64 * 9 + 64 * 9)
    larger = count_config(cfg, (256, 128)).parts
    assert larger['other'].macs == 2 * parts['other'].macs


@pytest.mark.slow
def test_detector_of_another_project_is_counted_with_all_proposals():
    cfg = Config.fromfile(stock(mmdet, 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'))
    parts = count_config(cfg, (96, 128)).parts
    # ResNet-50 without its classifier: 4.09 G at 224x224 (He et al.: 3.8 G without shortcuts).
    assert parts['backbone'].macs == pytest.approx(4.087e9 * 96 * 128 / 224**2, rel=0.01)
    anchors = 3 * sum((96 // s) * (128 // s) for s in (4, 8, 16, 32)) + 3 * 2 * 2
    proposals = min(1000, anchors)
    box_head = proposals * (256 * 49 * 1024 + 1024 * 1024 + 1024 * (81 + 320))
    mask_head = 100 * (196 * 4 * 9 * 256 * 256 + 196 * 4 * 256 * 256 + 784 * 256 * 80)
    positions = sum((96 // s) * (128 // s) for s in (4, 8, 16, 32)) + 4
    rpn = positions * (9 * 256 * 256 + 256 * 15)
    assert parts['heads'].macs == pytest.approx(box_head + mask_head + rpn, rel=1e-3)
    # In training as many as random weights give, the same in every call.
    trained = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        trained.append(count_config(cfg, (96, 128), training=True).parts)
    assert trained[0] == trained[1] and trained[0]['backbone'] == parts['backbone']
    sampled = 512 * (256 * 49 * 1024 + 1024 * 1024 + 1024 * (81 + 320))
    assert rpn < trained[0]['heads'].macs < rpn + sampled + 1.28 * mask_head
    # Counting leaves the config as it was.
    assert cfg.to_dict() == Config.fromfile(cfg.filename).to_dict()


@pytest.mark.parametrize('package, name, shape', [
    (mmdet, 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', (64, 96)),
    pytest.param(mmdet, 'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py', (64, 96),
                 marks=pytest.mark.slow),
    (mmdet, 'rtmdet/rtmdet_tiny_8xb32-300e_coco.py', (64, 96)),
    pytest.param(mmdet, 'panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py', (64, 96),
                 marks=pytest.mark.slow),
    pytest.param(mmseg, 'mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py', (64, 96),
                 marks=pytest.mark.slow),
    (mmseg, 'point_rend/pointrend_r50_4xb4-160k_ade20k-512x512.py', (64, 96)),
    (mmpretrain, 'resnet/resnet18_8xb16_cifar10.py', None)])
def test_models_of_other_projects(package, name, shape):
    cfg = Config.fromfile(stock(package, name))
    for training in (False, True):
        found = count_config(cfg, shape, training)
        assert found.parts['total'].macs > found.parts['backbone'].macs > 0
    if shape is None:  # ResNet-18 for CIFAR (He et al.): 0.56 G
        assert found.shape == (32, 32)
        assert found.parts['backbone'].macs == pytest.approx(0.555e9, rel=0.01)


def test_weights_are_initialised_and_none_are_read(monkeypatch):
    """mmdet leaves a parameter of Deformable DETR as memory was found until init_weights."""
    monkeypatch.setattr(CheckpointLoader, 'load_checkpoint', lambda *args, **kwargs: pytest.fail(
        f'tried to read {args}'))
    cfg = Config.fromfile(stock(mmdet, 'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py'))
    assert cfg.model.backbone.init_cfg.type == 'Pretrained'
    records, handler = [], logging.Handler()
    handler.emit = records.append
    MMLogger.get_current_instance().addHandler(handler)
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills such memory with NaN
    try:
        assert torch.empty(3).isnan().all()
        count_config(cfg, (64, 96), training=True)
    finally:
        torch.use_deterministic_algorithms(False)
        MMLogger.get_current_instance().removeHandler(handler)
    assert not [r for r in records if 'init_weights' in r.getMessage()]  # a line a parameter


@pytest.mark.parametrize('package, name, expected', [
    (mmdet, 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', (800, 1344)),
    (mmdet, 'reid/reid_r50_8xb32-6e_mot15train80_test-mot15val20.py', (256, 128)),
    (mmseg, 'upernet/upernet_r50_4xb4-160k_ade20k-512x512.py', (512, 512)),
    (mmpretrain, 'swin_transformer/swin-base_16xb64_in1k-384px.py', (384, 384)),
    (mmpretrain, 'resnet/resnet50_8xb32_in1k.py', (224, 224))])
def test_size_of_the_input(package, name, expected):
    assert input_shape(Config.fromfile(stock(package, name))) == expected


def test_what_cannot_be_counted_is_said():
    cfg = load_config(REPOSITORY / 'configs' / 'upernet_scheme_s_demo.py')
    cfg.default_scope = 'mmaction'
    with pytest.raises(ValueError, match="default_scope: expected one of .* found 'mmaction'"):
        count_config(cfg, (64, 64))
    with pytest.raises(ValueError, match='--shape'):
        count_config(Config(dict(default_scope='mmpretrain', model=dict())))


def test_command():
    config = 'configs/upernet_scheme_s_demo.py'
    tool = [sys.executable, 'tools/analysis_tools/get_flops.py', config]
    out = run(*tool, '--json', '--shape', '64')
    found = json.loads(next(line for line in out.splitlines() if line.startswith('{')))
    expected = count_config(load_config(REPOSITORY / config), (64, 64)).parts
    assert found['parts']['backbone'] == expected['backbone']._asdict()
    assert (found['height'], found['width']) == (64, 64)
    assert '--shape: expected one or two sizes' in run(*tool, '--shape', '1', '2', '3', fails=True)
