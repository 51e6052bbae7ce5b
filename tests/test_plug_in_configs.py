"""SCHEMEWrapper in the frameworks' own configs."""
import mmdet
import mmseg
import pytest
import torch
from mmengine import Config
from mmengine.registry import MODELS, init_default_scope

from mmscheme.layers import SCHEMEMixer
from tests.test_configs import check_step_and_prediction
from tests.test_stock_configs import stock


@pytest.mark.parametrize('package, name, mixers', [
    (mmseg, 'swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py', 12),
    (mmseg, 'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py', 8),
    (mmdet, 'swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py', 12),
    (mmdet, 'pvt/retinanet_pvt-t_fpn_1x_coco.py', 8)])
def test_stock_config_trains_a_step_and_predicts(package, name, mixers):
    cfg = Config.fromfile(stock(package, name))
    cfg.default_scope = package.__name__
    backbone = cfg.model.backbone
    backbone.pop('init_cfg', None)
    cfg.model.backbone = dict(type='mmscheme.SCHEMEWrapper', backbone=backbone)
    cfg.model.data_preprocessor.pop('size', None)
    if package is mmseg:
        cfg.model.data_preprocessor.size = (64, 64)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    assert sum(isinstance(m, SCHEMEMixer) for m in model.backbone.modules()) == mixers
    for module in model.backbone.modules():
        if hasattr(module, 'drop_prob'):
            module.drop_prob = 0.  # a branch that is skipped has no gradient
    check_step_and_prediction(model, cfg, model.backbone)
