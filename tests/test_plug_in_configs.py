"""SCHEMEWrapper in the frameworks' own configs, in ours and in the README."""
import mmdet
import mmseg
import pytest
import torch
from mmengine import Config
from mmengine.registry import MODELS, init_default_scope

from mmscheme.layers import SCHEMEMixer
from tests.models import build, check_step_and_prediction, shrink, stock
from tests.utils import REPOSITORY, readme_names

CONFIGS = sorted((REPOSITORY / 'configs' / 'plug_in').glob('*.py'))


def mixers(module):
    return [m for m in module.modules() if isinstance(m, SCHEMEMixer)]


def without_drop_path(model):
    """A branch that is skipped has no gradient."""
    for module in model.modules():
        if hasattr(module, 'drop_prob'):
            module.drop_prob = 0.


@pytest.mark.parametrize('package, name, number', [
    (mmseg, 'swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py', 12),
    (mmseg, 'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py', 8),
    (mmdet, 'swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py', 12),
    (mmdet, 'pvt/retinanet_pvt-t_fpn_1x_coco.py', 8)])
def test_stock_config_trains_a_step_and_predicts(package, name, number):
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
    model = MODELS.build(shrink(cfg).model)
    assert len(mixers(model.backbone)) == number and len(mixers(model)) == number
    without_drop_path(model)
    check_step_and_prediction(model, cfg, model.backbone)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_shipped_config(path):
    cfg = Config.fromfile(path)
    whole = cfg.model.type == 'mmscheme.SCHEMEWrapper'
    wrapper = cfg.model if whole else cfg.model.backbone
    assert wrapper.type == 'mmscheme.SCHEMEWrapper' and wrapper.expansion == 8
    assert wrapper.groups == {'44e8': (4, 4), '12e8': (1, 2)}[path.stem.split('_')[-2]]
    assert whole == bool(wrapper.get('within'))
    keys = cfg.optim_wrapper.paramwise_cfg.custom_keys
    assert {'alpha_logit', 'relative_position_bias_table', 'cls_token'} <= set(keys)
    assert (cfg.default_hooks.mixing_schedule.decay is None) == path.stem.startswith('cls')


# Those with other heads than the stock configs above.
@pytest.mark.parametrize('name, number', [
    ('cls_deit_s_44e8_in1k', 12), ('cls_poolformer_s12_12e8_in1k', 12),
    ('semantic_fpn_poolformer_s12_44e8_ade20k', 12),
    pytest.param('dino_swin_t_44e8_coco', 18, marks=pytest.mark.slow),
    pytest.param('mask2former_swin_t_44e8_ade20k', 18, marks=pytest.mark.slow)])
def test_shipped_config_trains_a_step_and_predicts(name, number, tmp_path):
    cfg = Config.fromfile(REPOSITORY / 'configs' / 'plug_in' / f'{name}.py')
    cfg.dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').to_dict() == cfg.to_dict()
    model = build(shrink(cfg))
    assert len(mixers(model)) == number
    without_drop_path(model)
    check_step_and_prediction(model, cfg)


def test_readme():
    backbone = readme_names('wrapper', {})['backbone']
    assert type(backbone).__module__ == 'mmdet.models.backbones.swin'
    assert [m.ffn.fc1.groups for m in mixers(backbone)] == [4] * 12
    assert backbone.stages[0].blocks[0].ffn.layers.ffn.fc1.weight.shape == (8 * 96, 96 // 4)
