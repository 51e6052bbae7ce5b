"""Checks before a run: all that is wrong at once, nothing where nothing is wrong."""
import random
import shutil
from collections import namedtuple
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmcv.cnn.bricks.transformer import BaseTransformerLayer, MultiheadAttention
from mmengine import Config
from mmengine.registry import init_default_scope

from mmscheme.apis.train import build_train_runner
from mmscheme.checks import Findings, check_run
from mmscheme.checks import data as data_checks
from mmscheme.checks.checkpoint import check_checkpoint
from mmscheme.checks.coco import _run_lengths
from mmscheme.checks.labels import LabelTable
from mmscheme.checks.model import build_for_checks, check_cca, check_ignored, check_sizes
from mmscheme.checks.resources import check_batch_size, check_disk, check_schedule
from mmscheme.utils.image_files import ends_abruptly, inspect_image
from tests.bad_inputs import halve
from tests.commands import load_tool

check_config = load_tool('misc/check_config')


def config(box, task, **changes):
    cfg = Config.fromfile(box.config(task))
    init_default_scope(cfg.default_scope)
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(box.scenes)
    if task == 'det':
        cfg.val_evaluator.ann_file = str(box.scenes / 'annotations' / 'instances_val2017.json')
    cfg.work_dir = str(box.folder / 'work')
    cfg.merge_from_dict(changes)
    return cfg


@pytest.mark.slow
@pytest.mark.parametrize('task', ['seg', 'det', 'cls'])
def test_nothing_is_found_where_nothing_is_wrong_and_nothing_changes(task, box):
    """Neither files nor random numbers nor the config."""
    cfg = config(box, task, param_scheduler=None,
                 **{'auto_scale_lr.base_batch_size': dict(seg=2, det=6, cls=8)[task]})
    before = cfg.pretty_text, sorted(box.folder.rglob('*'))
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    findings = check_run(cfg, ('train', 'val'))
    assert findings.errors == [] and findings.warnings == []
    assert (cfg.pretty_text, sorted(box.folder.rglob('*'))) == before
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[2])
    assert np.random.get_state()[1].tolist() == states[1]


def test_all_faults_at_once(box, capsys):
    halve(box.image())
    halve(box.image(name='scene_00002'))
    box.image('annotations', 'scene_00003').unlink()
    with pytest.raises(SystemExit) as stop:
        check_config.main(box.train('seg', 'train_cfg.val_interval=0', 'load_from=no.pth'))
    assert stop.value.code == 2
    output = capsys.readouterr()
    lines = [line for line in output.err.splitlines() if line.startswith('error: ')]
    for text in ('scene_00001.jpg (truncated', 'scene_00002.jpg (truncated', 'image without mask',
                 'val_interval', 'checkpoint not found: no.pth'):
        assert len([line for line in lines if text in line]) == 1, text
    assert len(lines) == 5 and '5 errors, 2 warnings' in output.out
    assert not (box.folder / 'work').exists()


@pytest.mark.slow
def test_files_that_a_config_names(box):
    cfg = config(box, 'seg', **{'model.backbone.init_cfg': dict(
        type='Pretrained', checkpoint=str(box.folder / 'no.pth'))})
    findings = check_run(cfg, ('train', ))
    assert len(findings.errors) == 1 and str(box.folder / 'no.pth') in findings.errors[0]
    assert 'backbone.init_cfg' in findings.errors[0]
    torch.save({}, box.folder / 'no.pth')
    assert check_run(cfg, ('train', )).errors == []


@pytest.mark.parametrize('label, wrong', [(9, False), (10, True), (0, False)])
def test_the_first_label_that_no_class_has(box, label, wrong):
    """The scenes have nine classes, from 1; 0 is ignored."""
    cfg, path = config(box, 'seg'), box.image('annotations')
    mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    mask[0, 0] = label
    cv2.imwrite(str(path), mask)
    errors = check_run(cfg, ('train', )).errors
    assert len(errors) == wrong and all('class id' in e and path.name in e for e in errors)


@pytest.mark.parametrize('label, wrong', [(5, False), (6, True)])
def test_the_first_label_of_images_that_no_class_has(box, label, wrong):
    cfg, findings = config(box, 'cls'), Findings()
    names = tuple('abcdef')
    image = next((box.scenes / 'objects').rglob('*.jpg'))
    built = SimpleNamespace(metainfo=dict(classes=names), full_init=lambda: None,
                            get_data_info=lambda i: dict(img_path=str(image), gt_label=label))
    built = type('Listed', (), dict(__len__=lambda self: 1, **vars(built)))
    built.full_init, built.get_data_info = (staticmethod(f) for f in (
        built.full_init, built.get_data_info))
    data_checks._check_listed(cfg.train_dataloader.dataset, built(),
                              LabelTable('train', 'images', names), True, findings)
    assert len(findings.errors) == wrong


def test_a_sample_or_all(box, capsys, monkeypatch):
    monkeypatch.setattr(data_checks, '_SAMPLE', 3)
    halve(box.image(name='scene_00001'))
    words = box.train('seg')
    check_config.main(words)
    with pytest.raises(SystemExit):
        check_config.main([*words, '--all'])
    assert 'unreadable image' in capsys.readouterr().err


def test_many_faults_of_a_kind_are_counted():
    findings = Findings(most=2)
    for i in range(5):
        findings.error(f'bad {i}', 'bad file')
        findings.error(f'bad {i}', 'bad file')
    assert findings.error_lines() == ['bad 0', 'bad 1', '3 more: bad file '
                                      '(`python -m mmscheme check_config CONFIG --all` lists them)']


def test_disk_space(box, monkeypatch):
    cfg = config(box, 'seg')
    model = build_for_checks(cfg, Findings())
    # AdamW keeps two numbers a weight; one file and the best one.
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    needed = 2 * (weights + 2 * 4 * sum(p.numel() for p in model.parameters()))
    usage = namedtuple('usage', 'total used free')
    for free, errors, warnings in ((needed - 1, 1, 0), (needed + 1, 0, 1), (10 * needed, 0, 0)):
        monkeypatch.setattr(shutil, 'disk_usage', lambda path, free=free: usage(0, 0, free))
        findings = Findings()
        check_disk(cfg, model, findings)
        assert (len(findings.errors), len(findings.warnings)) == (errors, warnings), free
    # Ten files, of which two and a new one are there at a time.
    cfg.merge_from_dict({'train_cfg.max_iters': 10, 'default_hooks.checkpoint.interval': 1,
                         'default_hooks.checkpoint.max_keep_ckpts': 2})
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage(0, 0, 2 * needed - 1))
    findings = Findings()
    check_disk(cfg, model, findings)
    assert findings.errors[0].startswith('disk space: 4 checkpoints of about')


@pytest.mark.parametrize('classes, use, errors, warnings', [
    ('abc', 'test', 0, 0), ('cab', 'test', 1, 0), ('cab', 'load_from', 1, 0),
    ('abd', 'test', 0, 1), ('abd', 'load_from', 0, 0), ('abcd', 'test', 0, 0),
    (None, 'test', 0, 0)])
def test_what_a_checkpoint_calls_its_classes(classes, use, errors, warnings, tmp_path):
    path, findings = str(tmp_path / 'a.pth'), Findings()
    torch.save(dict(state_dict=dict(weight=torch.zeros(1)), meta=dict(
        dataset_meta=dict(classes=classes and tuple(classes)))), path)
    findings.labels.append(LabelTable('test', 'pixels', tuple('abc')))
    check_checkpoint(path, None, use, findings)
    assert (len(findings.errors), len(findings.warnings)) == (errors, warnings)


def test_the_recipe_s_batch(box):
    findings = Findings()
    check_batch_size(config(box, 'seg'), findings)
    assert '2 images per step of the optimizer, but its recipe 8' in findings.warnings[0]


@pytest.mark.parametrize('counts, warnings', [(4, 0), (2, 1)])
def test_accumulated_gradients_are_counted(counts, warnings, box):
    findings = Findings()
    check_batch_size(config(box, 'seg', **{'optim_wrapper.accumulative_counts': counts}), findings)
    assert len(findings.warnings) == warnings


def test_auto_scale_lr_counts_accumulated_gradients(box):
    cfg = config(box, 'seg', **{'optim_wrapper.accumulative_counts': 4})
    rate = cfg.optim_wrapper.optimizer.lr
    runner = build_train_runner(cfg, auto_scale_lr=True, preflight=False)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.scale_lr(runner.optim_wrapper, runner.auto_scale_lr)
    assert runner.optim_wrapper.optimizer.param_groups[0]['lr'] == pytest.approx(rate)


@pytest.mark.parametrize('length, warnings', [(300, 0), (100, 1)])
def test_a_run_that_ends_before_its_schedule(length, warnings, box):
    findings = Findings()
    check_schedule(config(box, 'seg', **{'train_cfg.max_iters': length}), findings)
    assert len(findings.warnings) == warnings


@pytest.mark.parametrize('kind, late', [
    (dict(type='MultiStepLR', milestones=[30, 60, 90]), True),
    (dict(type='MultiStepLR', milestones=[8, 11]), False),
    (dict(type='MultiStepLR', milestones=[8, 11], begin=9), True),
    (dict(type='StepLR', step_size=20), True), (dict(type='StepLR', step_size=2), False)])
def test_steps_that_a_run_does_not_reach(kind, late):
    findings = Findings()
    check_schedule(Config(dict(train_cfg=dict(max_epochs=20), param_scheduler=[kind])), findings)
    assert len(findings.warnings) == late


def test_the_ignored_id_in_three_places(box):
    cfg = config(box, 'seg')  # nine classes
    model = build_for_checks(cfg, Findings())
    for heads, padding, metric, errors, warnings in (
            (255, 255, 255, 0, 0), (9, 9, 9, 0, 0), (9, 255, 9, 1, 0), (9, 9, 255, 1, 0),
            (9, 255, 255, 2, 0), (255, 0, 255, 0, 1), (255, 255, 0, 0, 1), (0, 255, 255, 1, 1)):
        model.decode_head.ignore_index = model.auxiliary_head.ignore_index = heads
        model.data_preprocessor.seg_pad_val = padding
        cfg.val_evaluator.ignore_index = metric
        findings = Findings()
        check_ignored(cfg, model, ('train', 'val'), findings)
        assert (len(findings.errors), len(findings.warnings)) == (errors, warnings), (
            heads, padding, metric)
    assert 'seg_pad_val=9' in check_run(config(box, 'seg', **{
        'model.data_preprocessor.seg_pad_val': 9}), ('train', 'val')).errors[0]


def test_cca_that_nobody_schedules(box):
    for hooks, warnings in ({}, 0), ({'default_hooks.mixing_schedule': None}, 1):
        cfg, findings = config(box, 'seg', **hooks), Findings()
        check_cca(cfg, build_for_checks(cfg, findings), True, findings)
        assert len(findings.warnings) == warnings and not findings.errors


@pytest.mark.parametrize('layer_first, ffn_first, errors', [
    (False, True, 1), (False, False, 0), (True, True, 0)])
def test_cca_that_would_mix_images(layer_first, ffn_first, errors):
    layer = BaseTransformerLayer(
        attn_cfgs=dict(type='MultiheadAttention', embed_dims=16, num_heads=2),
        ffn_cfgs=dict(type='mmscheme.SCHEMEFFN', embed_dims=16, feedforward_channels=32,
                      batch_first=ffn_first),
        operation_order=('self_attn', 'norm', 'ffn', 'norm'), batch_first=layer_first)
    own = torch.nn.Module()  # with other names, and its order only in the attention
    own.ffn = layer.ffns[0]
    own.self_attn = MultiheadAttention(16, 2, batch_first=layer_first)
    for module in (layer, own):
        for training in (True, False):  # without CCA
            findings = Findings()
            check_cca(Config(), torch.nn.Sequential(module), training, findings)
            assert len(findings.errors) == errors * training


def test_crops(box):
    for size, divisor, errors, warnings in (
            ((64, 64), None, 0, 0), ((128, 64), None, 0, 1), ((64, 32), None, 1, 0),
            (None, 64, 0, 0), (None, 48, 0, 1), (None, None, 1, 0), ((64, 64), 32, 1, 0)):
        findings = Findings()
        check_sizes(config(box, 'seg', **{'model.data_preprocessor.size': size,
                                          'model.data_preprocessor.size_divisor': divisor}),
                    findings)
        assert (len(findings.errors), len(findings.warnings)) == (errors, warnings), (size, divisor)


def test_run_lengths_equal_pycocotools():
    mask = pytest.importorskip('pycocotools.mask')
    rng = np.random.default_rng(0)
    for density in (0., 0.01, 0.5, 0.99, 1.):
        pixels = (rng.random((37, 53)) < density).astype(np.uint8)
        text = mask.encode(np.asfortranarray(pixels))['counts'].decode()
        flat = pixels.flatten(order='F')
        runs, last, length = [], 0, 0
        for value in flat:
            if value != last:
                runs.append(length)
                last, length = value, 0
            length += 1
        assert _run_lengths(text) == [*runs, length]


def test_ends(box):
    image, mask = box.image(), box.image('annotations')
    assert not ends_abruptly(str(image)) and not ends_abruptly(str(mask))
    image.write_bytes(image.read_bytes() + bytes(100))  # as some cameras do
    assert ends_abruptly(str(image)) and inspect_image(str(image)).problem is None
    for path in (image, mask):
        halve(path)
        assert ends_abruptly(str(path)) and inspect_image(str(path)).problem == 'truncated file'


@pytest.mark.slow
def test_no_preflight(box, capsys):
    main, options = load_tool('train').main, ('seg', 'model.decode_head.num_classes=90')
    with pytest.raises(SystemExit):
        main(box.train(*options))
    main(box.train(*options, flags=('--no-preflight', )))
    assert (box.folder / 'work' / 'last_checkpoint').exists()


