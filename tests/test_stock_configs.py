"""SCHEMEformer in the frameworks' own configs and tools."""
import re
import sys
from pathlib import Path

import mmdet
import mmseg
import pytest
import torch
from mmengine import Config
from mmengine.registry import MODELS, init_default_scope

from mmscheme.datasets.scenes import THINGS
from tests.conftest import run
from tests.test_configs import check_step_and_prediction, small

BACKBONE = dict(_delete_=True, type='mmscheme.SCHEMEformer', arch='s12')
WIDTHS = [64, 128, 320, 512]


def stock(package, name):
    return Path(package.__file__).parent / '.mim' / 'configs' / name


def check(cfg, unused=()):
    """A training step and a prediction; every parameter of the backbone gets a gradient."""
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(small(cfg).model)
    for name in unused:
        model.backbone.get_parameter(name).requires_grad_(False)
    return check_step_and_prediction(model, cfg, model.backbone)


def test_mmseg_upernet_r50():
    cfg = Config.fromfile(stock(mmseg, '_base_/models/upernet_r50.py'))
    cfg.merge_from_dict(dict(model=dict(
        pretrained=None, backbone=dict(BACKBONE), decode_head=dict(in_channels=WIDTHS),
        auxiliary_head=dict(in_channels=320),
        data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 64)))))
    cfg.default_scope = 'mmseg'
    check(cfg)


# FCOS leaves out the map at stride 4, so the norm of that output has no gradient.
@pytest.mark.parametrize('name, unused', [
    ('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', ()),
    ('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', ()),
    ('cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py', ()),
    ('fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', ('norm0.weight', 'norm0.bias'))])
def test_mmdet(name, unused):
    cfg = Config.fromfile(stock(mmdet, name))
    cfg.merge_from_dict(dict(model=dict(backbone=dict(BACKBONE), neck=dict(in_channels=WIDTHS))))
    check(cfg, unused)


def test_mmdets_own_tools_train_and_test(scenes, tmp_path):
    """The stock command lines with a stock config: model and safe loading are ours."""
    config = tmp_path / 'faster.py'
    config.write_text(f'''_base_ = '{stock(mmdet, 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')}'
model = dict(
    backbone=dict(_delete_=True, type='mmscheme.SCHEMEformer', arch='s12'),
    neck=dict(in_channels={WIDTHS}))
custom_imports = dict(imports=['mmscheme.safe_checkpoints'])
''')
    options = ['--cfg-options', 'train_cfg.max_epochs=1', 'test_evaluator.classwise=True',
               'model.test_cfg.rcnn.score_thr=0.0', 'model.roi_head.bbox_head.num_classes=6']
    for split in ('train', 'val', 'test'):
        dataset = f'{split}_dataloader.dataset'
        options += [f'{split}_dataloader.num_workers=0',
                    f'{split}_dataloader.persistent_workers=False',
                    f'{dataset}.data_root={scenes}/',
                    f'{dataset}.metainfo.classes={",".join(THINGS)}',
                    f'{dataset}.pipeline.{2 if split == "train" else 1}.scale=(80,64)']
    options += [f'{split}_evaluator.ann_file={scenes}/annotations/instances_val2017.json'
                for split in ('val', 'test')]

    def execute(tool, *arguments):
        path = stock(mmdet, '').parent / 'tools' / f'{tool}.py'
        return run(sys.executable, path, config, *arguments, '--work-dir', tmp_path / 'w',
                   *options, cwd=tmp_path)

    log = execute('train')
    assert 'Epoch(val) [1][4/4]' in log
    log = execute('test', tmp_path / 'w' / 'epoch_1.pth')
    assert re.search(r'coco/bbox_mAP: -?[\d.]+', log)
