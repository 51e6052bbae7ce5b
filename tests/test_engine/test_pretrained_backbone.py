"""Weights of a classifier in the backbone of a dense predictor."""
import sys
from types import SimpleNamespace

import pytest
import torch
from mmengine import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmscheme.engine.hooks import PretrainedBackboneHook
from mmscheme.models import SCHEMEformer
from mmscheme.utils.checkpoint_io import load_matching, use_safe_checkpoints
from tests.utils import REPOSITORY, RunsCode, run

UPERNET = 'configs/upernet_scheme_s_demo.py'


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
    """A checkpoint of the shipped classifier, and its weights."""
    cfg = Config.fromfile(REPOSITORY / 'configs' / 'cls_scheme_s_demo.py')
    init_default_scope('mmpretrain')
    torch.manual_seed(1)
    model = MODELS.build(cfg.model)
    nn.init.normal_(model.backbone.pos_embed)
    path = tmp_path_factory.mktemp('classifier') / 'epoch_1.pth'
    torch.save(dict(meta={}, state_dict=model.state_dict()), path)
    return path, model.backbone


def load(backbone, checkpoint, **settings):
    runner = SimpleNamespace(model=nn.ModuleDict(dict(backbone=backbone)), iter=0)
    runner.model.backbone = backbone
    PretrainedBackboneHook(str(checkpoint), **settings).before_train(runner)


@pytest.mark.parametrize('pos_embed', [False, True])
def test_the_maps_are_those_of_the_classifier(classifier, pos_embed):
    path, source = classifier
    backbone = SCHEMEformer(pos_embed=pos_embed).eval()
    load(backbone, path)
    without = SCHEMEformer(out_indices=(3, ), pos_embed=True).eval()
    without.load_state_dict(source.state_dict())
    if not pos_embed:
        nn.init.zeros_(without.pos_embed)
    image = torch.randn(1, 3, 96, 64)  # another size than the embedding's 14x14
    assert torch.equal(backbone(image)[3], without.eval()(image)[0])


def test_a_run_with_weights_is_left_alone(classifier):
    backbone = SCHEMEformer()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    for state in (dict(iter=7), dict(iter=0, _has_loaded=True)):  # resumed, and load_from
        runner = SimpleNamespace(model=backbone, **state)
        PretrainedBackboneHook(str(classifier[0])).before_train(runner)
    PretrainedBackboneHook(None).before_train(SimpleNamespace(model=backbone, iter=0))
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())


def test_the_difference_names_everything():
    module = nn.ModuleDict(dict(a=nn.Linear(2, 3), b=nn.Linear(3, 1)))
    weights = {'a.weight': torch.ones(3, 2), 'a.bias': torch.ones(4), 'c': torch.ones(1)}
    diff = load_matching(module, weights)
    assert diff.missing == ['b.weight', 'b.bias'] and diff.unexpected == ['c']
    assert list(diff.mismatched) == ['a.bias'] and diff.fraction == pytest.approx(6 / 13)
    assert (module['a'].weight == 1).all()
    lines = diff.problems()
    assert len(lines) == 3 and 'b.weight, b.bias' in lines[0] and 'c' in lines[1]
    assert all(part in lines[2] for part in ('a.bias', '(4,)', '(3,)'))
    assert load_matching(module, module.state_dict()).problems() == []


def test_stock_weights_for_a_wrapped_backbone(tmp_path):
    torch.manual_seed(0)
    init_default_scope('mmdet')
    swin = dict(type='SwinTransformer', embed_dims=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))
    stock = MODELS.build(swin)
    torch.save(dict(state_dict={f'backbone.{k}': v for k, v in stock.state_dict().items()}),
               tmp_path / 'stock.pth')
    wrapper = dict(type='mmscheme.SCHEMEWrapper', backbone=swin, expansion=None, cca=False)
    seeded = MODELS.build(dict(wrapper, seed_from_dense=True))
    load(seeded, tmp_path / 'stock.pth')    # the blocks on the diagonal are there too
    name = 'stages.1.blocks.0.ffn.layers.0.0.weight'
    block = next(p for k, p in seeded.named_parameters() if k.startswith('stages.1.blocks.0.ffn')
                 and k.endswith('fc1.weight'))
    # 4 blocks of a 128 x 32 matrix, times the root of 4.
    assert torch.allclose(block[:32], 2 * stock.state_dict()[name][:32, :8])
    with pytest.raises(ValueError, match='expected at least 90%'):
        load(MODELS.build(wrapper), tmp_path / 'stock.pth')
    load(MODELS.build(wrapper), tmp_path / 'stock.pth', min_loaded=0.3)


def test_the_wrong_checkpoint_is_an_error_unless_asked_for(classifier):
    other = SCHEMEformer('m36')
    with pytest.raises(ValueError, match=r'0% of the parameters .* expected at least 90% .*'
                                         r'missing .*weight'):
        load(other, classifier[0])
    load(other, classifier[0], min_loaded=0)
    with pytest.raises(ValueError, match='min_loaded: expected a number in'):
        PretrainedBackboneHook(min_loaded=90)


def test_damaged_and_dangerous_files_are_one_line(classifier, tmp_path):
    use_safe_checkpoints()
    data = classifier[0].read_bytes()
    (tmp_path / 'cut.pth').write_bytes(data[:len(data) // 2])
    torch.save(dict(state_dict={'a': RunsCode(tmp_path / 'ran')}), tmp_path / 'code.pth')
    torch.save([1, 2], tmp_path / 'list.pth')
    for name, message in (('cut.pth', 'not a readable checkpoint: .*cut.pth'),
                          ('code.pth', 'checkpoint refused: .*code.pth .* could run code'),
                          ('list.pth', 'list.pth: expected a checkpoint .*found list')):
        with pytest.raises(ValueError, match=message) as error:
            load(SCHEMEformer(), tmp_path / name)
        assert '\n' not in str(error.value)
    assert not (tmp_path / 'ran').exists()


def test_a_backbone_alone_and_a_wrapped_model(classifier, tmp_path):
    _, source = classifier
    for name, weights in (
            ('alone', source.state_dict()),
            ('wrapped', {f'module.backbone.{k}': v for k, v in source.state_dict().items()})):
        torch.save(weights if name == 'alone' else dict(model=weights), tmp_path / name)
        backbone = SCHEMEformer()
        load(backbone, tmp_path / name)
        assert torch.equal(backbone.stages[3][1].layer_scale2, source.stages[3][1].layer_scale2)
        assert torch.equal(backbone.downsamples[0].weight, source.downsamples[0].weight)


@pytest.mark.slow
def test_command_line(classifier, scenes, tmp_path):

    def train(checkpoint, fails=False):
        return run(
            sys.executable, 'tools/train.py', UPERNET, '--data-root', scenes, '--work-dir',
            tmp_path / 'w', '--pretrained', checkpoint, '--cfg-options', 'train_cfg.max_iters=1',
            'train_cfg.val_interval=1', 'train_dataloader.batch_size=2',
            'train_dataloader.num_workers=0', 'val_dataloader.num_workers=0',
            'model.decode_head.channels=16', 'optim_wrapper.optimizer.lr=0.0', fails=fails)

    log = train(classifier[0])
    assert 'missing norm0.weight, norm0.bias' in log and 'unexpected pos_embed' in log
    assert 'backbone.pos_embed=True loads it' in log
    trained = torch.load(tmp_path / 'w' / 'iter_1.pth', weights_only=True)['state_dict']
    expected = classifier[1].state_dict()
    assert torch.equal(trained['backbone.stages.2.3.channel_mixer.ffn.fc1.weight'],
                       expected['stages.2.3.channel_mixer.ffn.fc1.weight'])
    torch.save(dict(state_dict={'features.0.weight': torch.ones(3)}), tmp_path / 'other.pth')
    last = train(tmp_path / 'other.pth', fails=True).strip().splitlines()[-1]
    assert last.startswith('error: ') and '0% of the parameters of SCHEMEformer' in last
    assert 'unexpected features.0.weight' in last
