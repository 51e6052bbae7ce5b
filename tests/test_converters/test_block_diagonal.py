"""Dense backbones as the start of block-diagonal ones."""
import copy

import pytest
import torch
from mmengine import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmscheme.converters import convert_backbone, convert_classifier
from mmscheme.models import SCHEMEformer
from tests.commands import load_tool
from tests.utils import REPOSITORY, RunsCode

dense_to_block_diagonal = load_tool('model_converters/dense2block_diagonal').main

TINY = dict(depths=(1, 2, 1, 1), embed_dims=(16, 24, 32, 64), layer_scale_init=0.5)
DENSE = dict(groups=(1, 1), expansion=4, cca=False)


def dense_backbone(**arguments):
    """With weights of a size that makes its FFNs matter."""
    torch.manual_seed(0)
    model = SCHEMEformer(TINY, **DENSE, **arguments)
    for name, p in model.named_parameters():
        if 'weight' in name and p.dim() > 1:
            nn.init.normal_(p, std=p.flatten(1).shape[1] ** -0.5)
    return model.eval()


@pytest.fixture(scope='module')
def images():
    torch.manual_seed(1)
    return [torch.randn(8, 3, 64, 64) for _ in range(5)]


def test_dense_first_layers_take_everything_over(images):
    """In 12-e8 each of two groups has room for all units of E=4: nothing need be lost."""
    dense = dense_backbone()
    student = SCHEMEformer(TINY, groups=(1, 2), expansion=8)
    report, _ = convert_backbone(dense, student, images)
    assert min(fit.fitted for fit in report) > 0.9999
    for a, b in zip(dense(images[0]), student.eval()(images[0])):
        assert (a - b).abs().max() < 2e-2 * a.abs().max()


def test_a_block_diagonal_function_is_found_again(images):
    """A dense layer that hides a block-diagonal one behind an order of the channels."""
    torch.manual_seed(0)
    hidden = SCHEMEformer(TINY, groups=(4, 4), expansion=4, cca=False).eval()
    dense = dense_backbone()
    for dense_block, block in zip([b for s in dense.stages for b in s],
                                  [b for s in hidden.stages for b in s]):
        order = torch.randperm(len(block.layer_scale1))
        for layer in ('fc1', 'fc2'):
            blocks = getattr(block.channel_mixer.ffn, layer).weight.chunk(4)
            full = torch.block_diag(*[torch.randn_like(b) * 3 * b.shape[1] ** -0.5
                                      for b in blocks])
            place = full[:, order.argsort()] if layer == 'fc1' else full[order.argsort()]
            with torch.no_grad():
                getattr(dense_block.channel_mixer.ffn, layer).weight.copy_(place)
    # One FFN a stage, so one order suits it; stage 1 has two and no common order.
    results = {}
    for permutation in ('cluster', 'none'):
        torch.manual_seed(0)
        student = SCHEMEformer(TINY, groups=(4, 4), expansion=8)
        report, orders = convert_backbone(dense, student, images, permutation)
        results[permutation] = {fit.name: fit.fitted for fit in report}
        assert set(orders) == (set(range(4)) if permutation == 'cluster' else set())
    for name in (f'stages.{i}.0.channel_mixer' for i in (0, 2, 3)):
        assert results['cluster'][name] > results['none'][name], name
    assert results['cluster']['stages.0.0.channel_mixer'] > 0.95


def test_the_report_is_what_a_loop_over_unseen_images_finds(images):
    dense = dense_backbone()
    untouched = copy.deepcopy(dense.state_dict())
    student = SCHEMEformer(TINY)
    seen = []
    report, orders = convert_backbone(dense, student, images, max_tokens=10 ** 6,
                                      progress=seen.append)
    assert seen == report and [f.name for f in report] == [
        f'stages.{i}.channel_mixer' for i in ('0.0', '1.0', '1.1', '2.0', '3.0')]
    assert all(torch.equal(v, untouched[k]) for k, v in dense.state_dict().items())
    assert all(float(b.channel_mixer.alpha) == 1 for s in student.stages for b in s)
    # The first FFN: the dense one on the same maps, in the order of the new channels.
    maps = []
    handle = student.stages[0][0].channel_mixer.register_forward_hook(
        lambda m, args, y: maps.append((args[0], y)))
    student.eval()(images[-1][2:])      # the last 15 % of 40 images
    handle.remove()
    x, y = maps[0]
    inverse = orders[0].argsort()
    wanted = dense.stages[0][0].channel_mixer(x[:, inverse])[:, orders[0]]
    wanted, y = (t.transpose(0, 1).flatten(1) for t in (wanted, y))
    left = (wanted - y).square().sum() / (wanted - wanted.mean(1, keepdim=True)).square().sum()
    assert report[0].fitted == pytest.approx(1 - left.item(), abs=2e-3)
    assert all(f.fitted > f.projected for f in report)


@pytest.mark.parametrize('groups, expansion', [((2, 2), 3), ((2, 4), 8), ((4, 1), 4), ((1, 4), 8),
                                               ((4, 4), 20)])
def test_any_groups_and_widths(images, groups, expansion):
    student = SCHEMEformer(TINY, groups=groups, expansion=expansion, cca=False)
    report, _ = convert_backbone(dense_backbone(), student, images)
    assert all(0 < fit.fitted <= 1 for fit in report)


def test_wrong_pairs_are_named(images):
    dense = dense_backbone()
    for arguments, message in (
            (dict(student=SCHEMEformer(TINY, pos_embed=True)), 'missing pos_embed'),
            (dict(dense=SCHEMEformer(TINY)),
             'stages.0.0.channel_mixer: expected a dense FFN without CCA'),
            (dict(student=SCHEMEformer(TINY, interleave=True)),
             'stages.0.0.channel_mixer: .*interleave=False'),
            (dict(permutation='best'), "permutation: expected one of .*, found 'best'"),
            (dict(images=images[0][:1, None]), 'at least 8 images')):
        arguments = dict(dict(dense=dense, student=SCHEMEformer(TINY), images=images), **arguments)
        with pytest.raises(ValueError, match=message):
            convert_backbone(**arguments)


def classifier_config():
    cfg = Config.fromfile(REPOSITORY / 'configs' / 'cls_scheme_s_demo.py')
    cfg.model.backbone = dict(type='mmscheme.SCHEMEformer', arch=TINY, out_indices=(3, ),
                              pos_embed=True, **DENSE)
    cfg.model.head.in_channels = 64
    return cfg


def test_the_head_follows_the_order(images):
    cfg = classifier_config()
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    dense = MODELS.build(cfg.model)
    # Exact in 12-e8, in any order of the channels.
    found = convert_classifier(cfg, dense.state_dict(), images, (1, 2), 8, permutation='random',)
    with torch.no_grad():
        a = dense.eval().head.fc(dense.neck(dense.backbone(images[0]))[0])
        b = found.model.eval().head.fc(found.model.neck(found.model.backbone(images[0]))[0])
    assert not torch.equal(found.model.head.fc.weight, dense.head.fc.weight)
    assert (a - b).abs().max() < 2e-2 * a.abs().max()
    with pytest.raises(ValueError, match='missing head.fc.bias'):
        weights = dense.state_dict()
        del weights['head.fc.bias']
        convert_classifier(cfg, weights, images)


@pytest.mark.slow
def test_command_and_its_errors(scenes, tmp_path, capsys):
    cfg = classifier_config()
    cfg.train_dataloader.update(num_workers=0, persistent_workers=True)  # which torch refuses
    cfg.dump(tmp_path / 'dense.py')
    init_default_scope('mmpretrain')
    weights = MODELS.build(cfg.model).state_dict()
    torch.save(dict(meta=dict(dataset_meta=dict(classes=('a', 'b'))), state_dict=weights),
               tmp_path / 'dense.pth')
    arguments = ['--data-root', str(scenes), '--num-images', '40']
    dense_to_block_diagonal([str(tmp_path / 'dense.py'), str(tmp_path / 'dense.pth'),
                             str(tmp_path / 'new.pth'), '--compare', *arguments])
    out = capsys.readouterr().out
    assert '| FFN | none | random | cluster |' in out and '| stages.3.0.channel_mixer | ' in out
    assert '[cluster, ' in out and 'model.backbone.groups="(4,4)"' in out
    content = torch.load(tmp_path / 'new.pth', weights_only=True)
    assert content['meta']['dataset_meta']['classes'] == ('a', 'b')
    cfg.model.backbone.update(groups=(4, 4), expansion=8, cca=True)
    MODELS.build(cfg.model).load_state_dict(content['state_dict'])

    torch.save(dict(state_dict={'a': RunsCode(tmp_path / 'ran')}), tmp_path / 'code.pth')
    torch.save(dict(state_dict={'a': torch.ones(1)}), tmp_path / 'other.pth')
    before = sorted(tmp_path.iterdir())
    for config, source, more, message in (
            ('none.py', 'dense.pth', [], 'config not found'),
            ('dense.py', 'none.pth', [], 'checkpoint not found'),
            ('dense.py', 'code.pth', [], 'could run code'),
            ('dense.py', 'other.pth', [], 'not a checkpoint of this config'),
            ('dense.py', 'dense.pth', ['--groups', '3', '4'], 'does not divide into groups=3'),
            ('dense.py', 'dense.pth', ['--num-images', '2'], '--num-images: expected at least 8'),
            ('dense.py', 'dense.pth', ['--cfg-options', 'model.backbone.groups=(4,4)'],
             'not a checkpoint of this config')):
        with pytest.raises(SystemExit) as status:
            dense_to_block_diagonal([str(tmp_path / config), str(tmp_path / source),
                                     str(tmp_path / 'x.pth'), *arguments, *more])
        error = capsys.readouterr().err
        assert status.value.code == 2 and message in error, error
        assert error.count('\n') == 1 and error.startswith('error: ')
    for target, kind in (('dense.pth', 'checkpoint'), ('dense.py', 'config')):
        content = (tmp_path / target).read_bytes()
        with pytest.raises(SystemExit):
            dense_to_block_diagonal([str(tmp_path / 'dense.py'), str(tmp_path / 'dense.pth'),
                                     str(tmp_path / target), *arguments])
        assert f'would replace the {kind} that is read' in capsys.readouterr().err
        assert (tmp_path / target).read_bytes() == content
    assert sorted(tmp_path.iterdir()) == before


def test_the_units_that_matter_are_kept(images):
    """Three quarters of the hidden units have no part in the output: the rest is all of it."""
    dense = dense_backbone()
    for block in (b for stage in dense.stages for b in stage):
        ffn = block.channel_mixer.ffn
        with torch.no_grad():
            ffn.fc2.weight[:, torch.randperm(ffn.fc2.in_features)[ffn.fc2.in_features // 4:]] = 0
    student = SCHEMEformer(TINY, groups=(1, 1), expansion=1, cca=False)
    report, _ = convert_backbone(dense, student, images)
    assert min(min(fit.projected, fit.fitted) for fit in report) > 0.9999
