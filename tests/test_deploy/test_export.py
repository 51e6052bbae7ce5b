"""Exported files do what the checkpoint does, or are not written."""
import itertools
import json
import shutil
import sys
from copy import deepcopy

import cv2
import numpy as np
import pytest
import torch
from mmengine.utils import digit_version
from mmseg.structures import SegDataSample
from torch import nn

from mmscheme.analysis.random_batch import random_batch
from mmscheme.deploy import export as export_module
from mmscheme.deploy.export import export
from mmscheme.deploy.graphs import MatrixPool
from mmscheme.deploy.matching import match_boxes
from mmscheme.deploy.predictor import ExportedPredictor
from mmscheme.deploy.runtime import load_exported
from mmscheme.models.loading import build_model, load_model
from tests.commands import load_tool
from tests.models import tiny_checkpoint

main = load_tool('deploy/export').main
predict_main = load_tool('deploy/predict').main
predict_tool = load_tool('predict')

pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')


@pytest.mark.parametrize('size, bins', [((16, 16), (3, 3)), ((16, 21), (6, 6)), ((7, 5), (2, 3)),
                                        ((2, 3), (6, 6)), ((5, 5), (1, 5))])
def test_matrix_pooling_is_adaptive_pooling(size, bins):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    pool = MatrixPool(size, bins).double()
    expected = nn.AdaptiveAvgPool2d(bins)(x)
    assert pool(x).shape == expected.shape
    assert torch.allclose(pool(x), expected, atol=1e-7)


@pytest.mark.parametrize('suffix', [
    'onnx', pytest.param('pt2', marks=pytest.mark.slow), 'pt'])
def test_segmenter_draws_the_picture_of_the_checkpoint(scenes, tmp_path, capsys, suffix):
    config, checkpoint, _ = tiny_checkpoint('upernet', tmp_path)
    formats = dict(onnx='onnx', pt2='torch_export', pt='torchscript')
    target = tmp_path / f'model.{suffix}'
    main([str(config), checkpoint, '--format', formats[suffix], '--shape', '128', '160', '--out',
          str(target)])
    shown = capsys.readouterr().out
    assert 'check 2: relative difference of the logits' in shown and 'largest difference:' in shown
    image = scenes / 'images' / 'validation' / 'scene_00001.jpg'
    predict_main([str(target), str(image), '--out', str(tmp_path / 'exported')])
    predict_tool.main([str(config), checkpoint, str(image), '--out', str(tmp_path / 'torch')])
    ours, expected = (cv2.imread(str(tmp_path / d / image.name)) for d in ('exported', 'torch'))
    assert ours.shape == expected.shape == (64, 80, 3)
    assert (np.abs(ours.astype(int) - expected).max(-1) > 0).mean() < 1e-3
    meta = load_exported(target).meta
    assert meta['task'] == 'segmentation' and meta['shape'] == [128, 160]
    assert len(meta['classes']) == len(meta['palette']) == 9
    if suffix == 'onnx':
        import onnx
        model = onnx.load(target)
        keys = {p.key: p.value for p in model.metadata_props}
        assert json.loads(keys['classes']) == meta['classes']
        assert 'uint8' in json.loads(keys['inputs'])['image']
        names = ' '.join(i.name for i in model.graph.initializer)
        assert 'alpha' not in names and 'layer_scale' not in names


@pytest.mark.slow
def test_dynamic_sizes_where_pooling_allows(tmp_path):
    _, checkpoint, cfg = tiny_checkpoint('semantic_fpn', tmp_path)
    target = tmp_path / 'model.onnx'
    if digit_version(torch.__version__) < digit_version('2.7'):
        with pytest.raises(ValueError, match='--dynamic: the ONNX exporter of torch 2.6'):
            export(cfg, checkpoint, target, (64, 96), dynamic=True)
    else:
        checks, _ = export(cfg, checkpoint, target, (64, 96), dynamic=True)
        assert len(checks) == 3 and all(c.passed for c in checks)
        run = load_exported(target).run
        image = np.random.default_rng(0).integers(0, 256, (3, 3, 160, 32), np.uint8)
        found = run(dict(image=image))
        assert found['labels'].shape == (3, 160, 32)
        assert np.array_equal(found['logits'].argmax(1), found['labels'])
    _, checkpoint, cfg = tiny_checkpoint('upernet', tmp_path)
    with pytest.raises(ValueError, match='--dynamic: .*psp_modules.* pools to bins that depend'):
        export(cfg, checkpoint, tmp_path / 'x.onnx', (64, 64), dynamic=True)
    _, checkpoint, cfg = tiny_checkpoint('cls', tmp_path)
    with pytest.raises(ValueError, match='--dynamic: the position embedding'):
        export(cfg, checkpoint, tmp_path / 'x.onnx', (64, 64), dynamic=True)


@pytest.mark.slow
def test_detector_with_decoding_and_nms(scenes, tmp_path):
    config, checkpoint, cfg = tiny_checkpoint('retinanet', tmp_path)
    target = tmp_path / 'model.onnx'
    checks, notes = export(cfg, checkpoint, target, (128, 160))
    assert not notes and all(c.passed and c.difference < 1e-3 for c in checks)
    exported = load_exported(target)
    image = np.random.default_rng(1).integers(0, 256, (1, 3, 128, 160), np.uint8)
    inputs = dict(image=image, size=np.array([100, 150]),
                  score_threshold=np.array(0.05, np.float32))
    found = exported.run(inputs)
    assert found['boxes'].shape == (100, 4) and found['scores'].shape == (100, )
    valid = found['labels'] >= 0
    assert valid.sum() > 5 and (found['scores'][valid] > 0.05).all()
    assert (found['boxes'][valid] <= [150, 100, 150, 100]).all()
    assert (np.diff(found['scores']) <= 0).all() and not found['scores'][~valid].any()
    # What is beside the picture does not count.
    image[:, :, 100:], image[..., 150:] = 7, 7
    again = exported.run(inputs)
    assert all(np.allclose(found[k], again[k], atol=1e-4) for k in found)
    # At the size of the image file, as a data sample.
    sample = ExportedPredictor(target)(scenes / 'val2017' / 'scene_00000.jpg')
    boxes = sample.pred_instances.bboxes
    assert len(boxes) and boxes.max() <= 80 and (boxes[:, 1::2].max() <= 64)
    predict_main([str(target), str(scenes / 'val2017'), '--out', str(tmp_path / 'p')])
    assert len(list((tmp_path / 'p').iterdir())) == 4


@pytest.mark.slow
def test_classifier(scenes, tmp_path, capsys):
    _, checkpoint, cfg = tiny_checkpoint('cls', tmp_path)
    checks, _ = export(cfg, checkpoint, tmp_path / 'cls.onnx')
    assert all(c.passed for c in checks)
    image = next((scenes / 'objects').rglob('*.jpg'))
    sample = ExportedPredictor(tmp_path / 'cls.onnx')(image)
    assert sample.pred_score.shape == (6, ) and sample.pred_score.sum() == pytest.approx(1)
    predict_main([str(tmp_path / 'cls.onnx'), str(image), '--out', str(tmp_path / 'p')])
    assert cv2.imread(str(tmp_path / 'p' / image.name)) is not None
    (tmp_path / 'text.jpg').write_text('x')
    capsys.readouterr()
    with pytest.raises(SystemExit) as status:
        predict_main([str(tmp_path / 'cls.onnx'), str(tmp_path / 'text.jpg'), str(image), '--out',
                      str(tmp_path / 'q')])
    shown = capsys.readouterr()
    assert status.value.code == 2 and '\n1 of 2 files: ' in shown.out
    assert shown.err == f'error: not a readable image: {tmp_path}/text.jpg (not an image)\n'
    assert [p.name for p in (tmp_path / 'q').iterdir()] == [image.name]


@pytest.mark.slow
def test_mask_rcnn_whole(scenes, tmp_path, capsys):
    config, checkpoint, cfg = tiny_checkpoint('mask_rcnn', tmp_path)
    target = tmp_path / 'm.onnx'
    main([str(config), checkpoint, '--shape', '128', '160', '--out', str(target)])
    shown = capsys.readouterr().out
    assert 'those of their masks by' in shown and 'note: ' not in shown
    exported = load_exported(target)
    image = np.random.default_rng(1).integers(0, 256, (1, 3, 128, 160), np.uint8)
    for threshold, least, most in ((0.05, 6, 100), (1., 0, 0)):
        found = exported.run(dict(image=image, size=np.array([100, 150]),
                                  score_threshold=np.array(threshold, np.float32)))
        number = int((found['labels'] >= 0).sum())
        assert least <= number <= most and found['boxes'].shape == (100, 4)
        assert found['masks'].shape == (number, 28, 28)
        assert (found['boxes'] <= [150, 100, 150, 100]).all()
    # At the size of the image file, as the framework's own data sample, and drawn.
    path = scenes / 'val2017' / 'scene_00000.jpg'
    predictor = ExportedPredictor(target)
    found = predictor(path).pred_instances
    assert len(found) and found.masks.shape == (len(found), 64, 80) and found.masks.any()
    predict_main([str(target), str(path), '--out', str(tmp_path / 'p'), '--score-thr', '0.05'])
    predict_tool.main([str(config), checkpoint, str(path), '--out', str(tmp_path / 'q'),
                       '--score-thr', '0.05'])
    ours, expected, plain = (cv2.imread(str(d / path.name)).astype(int) for d in (
        tmp_path / 'p', tmp_path / 'q', path.parent))
    assert (np.abs(ours - plain).max(-1) > 0).mean() > 0.1
    # A figure that was used for another size is drawn on a little otherwise.
    assert (np.abs(ours - expected).max(-1) > 16).mean() < 1e-3
    # What has no form is left out, and said.
    cfg.model.rpn_head.loss_cls.use_sigmoid = False
    torch.save(dict(state_dict=build_model(cfg).state_dict(), meta={}), tmp_path / 'other.pth')
    _, (left_out, *_) = export(cfg, str(tmp_path / 'other.pth'), tmp_path / 'other.pt', (64, 96))
    assert left_out.startswith('MaskRCNN is exported as backbone and neck alone')
    outputs = load_exported(tmp_path / 'other.pt').run(
        dict(image=np.zeros((1, 3, 64, 96), np.uint8)))
    assert [v.shape[2:] for v in outputs.values()] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    with pytest.raises(SystemExit):
        predict_main([str(tmp_path / 'other.pt'), str(path)])
    assert 'only a backbone and neck' in capsys.readouterr().err


@pytest.fixture(scope='module')
def sliding(tmp_path_factory):
    """A segmenter in PyTorch that slides windows, and the predictor of its file."""
    folder = tmp_path_factory.mktemp('sliding')
    _, checkpoint, cfg = tiny_checkpoint('upernet', folder)
    cfg.model.test_cfg = dict(mode='slide', crop_size=(64, 64), stride=(48, 40))
    checks, _ = export(cfg, checkpoint, folder / 'model.pt')
    assert all(check.passed for check in checks)
    predictor = ExportedPredictor(folder / 'model.pt')
    assert predictor.meta['shape'] == [64, 64] and predictor.meta['stride'] == [48, 40]
    predictor.cfg = cfg
    with pytest.raises(ValueError, match=r'--shape: expected model.test_cfg.crop_size=\(64, 64\)'):
        export(cfg, checkpoint, folder / 'other.pt', (96, 96))
    return load_model(cfg, checkpoint)[0], predictor


@pytest.mark.parametrize('size', [(64, 64), (100, 130), (96, 64), (112, 64)])
def test_windows_are_put_together_as_by_mmseg(sliding, size):
    model, predictor = sliding
    image = torch.from_numpy(np.random.default_rng(2).integers(0, 256, (3, *size), np.uint8))
    batch = random_batch(predictor.cfg, size, 1)
    batch['inputs'] = [image]
    with torch.no_grad():
        expected = model.test_step(batch)[0]
    sample = predictor.predict(image, SegDataSample(metainfo=dict(ori_shape=size)))
    logits, found_size = predictor._slide(image)
    assert found_size == size
    assert np.abs(logits['logits'][0] - expected.seg_logits.data.numpy()).max() < 1e-4
    same = sample.pred_sem_seg.data == expected.pred_sem_seg.data
    assert same.shape == (1, *size) and same.float().mean() > 0.9999


def _scale_a_weight(model):
    model.backbone.stages[1][0].channel_mixer.ffn.fc1.weight.data *= 1.01


def _exchange_channels(model):
    weight = model.backbone.stages[2][0].channel_mixer.ffn.fc2.weight.data
    weight[[0, 1]] = weight[[1, 0]]


def _scale_a_weight_of_the_masks(model):
    model.roi_head.mask_head.convs[1].conv.weight.data *= 1.01


def _drop_layer_scale(model):
    model.backbone.stages[1][0].layer_scale2.data.fill_(1)


@pytest.mark.slow
@pytest.mark.parametrize('task, damage', [
    *itertools.product(('cls', 'upernet', 'retinanet', 'mask_rcnn'),
                       (_scale_a_weight, _exchange_channels, _drop_layer_scale)),
    ('mask_rcnn', _scale_a_weight_of_the_masks)])
def test_a_file_that_differs_is_not_written(tmp_path, monkeypatch, task, damage):
    _, checkpoint, cfg = tiny_checkpoint(task, tmp_path)
    correct = export_module.fold

    def wrong(model):
        model = deepcopy(model)
        damage(model)
        return correct(model)

    target = tmp_path / 'new' / 'model.pt'
    with monkeypatch.context() as patch:
        patch.setattr(export_module, 'fold', wrong)
        with pytest.raises(ValueError, match='outputs of the exported model'):
            export(cfg, checkpoint, target, (64, 64))
    assert not list(target.parent.iterdir())
    checks, _ = export(cfg, checkpoint, target, (64, 64))
    # Far enough below the tolerance that rounding on other machines stays below as well.
    assert all(check.passed and check.difference < 3e-5 for check in checks)


@pytest.mark.slow
def test_float16(tmp_path, monkeypatch):
    import onnx
    _, checkpoint, cfg = tiny_checkpoint('upernet', tmp_path)
    target = tmp_path / 'model.onnx'
    checks, _ = export(cfg, checkpoint, target, (64, 64), fp16=True)
    graph = onnx.load(target).graph
    kinds = {i.data_type for i in graph.initializer if len(i.dims) > 1}
    assert onnx.TensorProto.FLOAT16 in kinds and onnx.TensorProto.FLOAT not in kinds
    assert load_exported(target).run(dict(image=np.zeros((1, 3, 64, 64), np.uint8)))[
        'logits'].dtype == np.float32
    # Rounding to 11 bits shows, which in float32 would be a wrong file.
    assert all(1e-4 < check.difference < 5e-3 for check in checks)
    correct = export_module.fold

    def wrong(model):
        model = deepcopy(model)
        _drop_layer_scale(model)
        return correct(model)

    monkeypatch.setattr(export_module, 'fold', wrong)
    with pytest.raises(ValueError, match='outputs of the exported model'):
        export(cfg, checkpoint, tmp_path / 'wrong.onnx', (64, 64), fp16=True)
    with pytest.raises(ValueError, match='--fp16: expected the format onnx'):
        export(cfg, checkpoint, tmp_path / 'wrong.pt', (64, 64), fp16=True)
    _, checkpoint, cfg = tiny_checkpoint('retinanet', tmp_path)
    with pytest.raises(ValueError, match='--fp16: .* no detector'):
        export(cfg, checkpoint, tmp_path / 'wrong.onnx', (64, 64), fp16=True)
    assert not list(tmp_path.glob('wrong*'))


def test_matching_sees_what_is_wrong():
    boxes = np.array([[0, 0, 10, 10], [5, 5, 25, 25.]], np.float32)
    found = dict(boxes=np.concatenate([boxes, boxes[:1]]), scores=np.array([.9, .5, 0.]),
                 labels=np.array([1, 2, -1]))
    reference = dict(bboxes=boxes + .25, scores=np.array([.9, .5]), labels=np.array([1, 2]))
    match = match_boxes(found, reference)
    assert (match.number, match.alone, match.scores) == (2, 0, 0)
    assert match.pixels == pytest.approx(.25)
    # Sides of 10 and of 20 pixels.
    assert match.difference == pytest.approx(np.sqrt((.025**2 + .0125**2) / 2))
    logits = np.log([.9 / .1, 1])
    other = match_boxes(dict(found, scores=1 / (1 + np.exp(-np.array([*logits, -99]) - .1))),
                        reference)
    assert other.scores == pytest.approx(.1 / logits.std())
    assert match_boxes(found, dict(reference, labels=np.array([1, 1]))).alone == 2
    assert match_boxes(found, dict(reference, bboxes=boxes + 2)).alone == 4
    assert match_boxes({k: v[:1] for k, v in found.items()}, reference).alone == 1
    maps = np.ones((1, 2, 3, 3), np.float32)
    assert not export_module._compare('features', [maps, maps * np.nan], [maps] * 2, [1., 1.],
                                      1e-4, None).passed


def test_errors(scenes, tmp_path, capsys):
    config, checkpoint, _ = tiny_checkpoint('upernet', tmp_path)
    image = str(scenes / 'images' / 'validation' / 'scene_00000.jpg')
    (tmp_path / 'broken.onnx').write_text('x')
    (tmp_path / 'broken.pt').write_text('x')
    torch.jit.save(torch.jit.script(nn.ReLU()), str(tmp_path / 'foreign.pt'))
    shutil.copy(checkpoint, tmp_path / 'weights.pt')
    before = sorted(tmp_path.iterdir())
    for call, arguments, message in (
            (main, (config, tmp_path / 'no.pth'), 'checkpoint not found'),
            (main, (config, checkpoint, '--out', tmp_path / 'x.pt'), 'expected a file *.onnx'),
            (main, (config, checkpoint, '--shape', '8'), '--shape: expected'),
            (main, (config, tmp_path / 'weights.pt', '--format', 'torchscript'),
             'weights.pt: would replace the checkpoint that is read'),
            (main, (config, checkpoint, '--cfg-options', 'model.test_cfg.mode=slide'),
             'model.test_cfg.crop_size: mode=slide needs'),
            (main, (config, checkpoint, '--format', 'torchscript', '--dynamic', '--out',
                    tmp_path / 'x.pt'), '--dynamic: '),
            (predict_main, (tmp_path / 'no.onnx', image), 'exported model not found'),
            (predict_main, (tmp_path / 'broken.onnx', image), 'not a readable model'),
            (predict_main, (tmp_path / 'broken.pt', image), 'not a readable model'),
            (predict_main, (tmp_path / 'foreign.pt', image),
             "no entry 'mmscheme' in it; expected a file written by `python -m mmscheme export`"),
            (predict_main, (checkpoint, image), 'expected a file *.onnx'),
            (predict_main, (tmp_path / 'broken.onnx', tmp_path / 'no.jpg'), 'input not found')):
        with pytest.raises(SystemExit) as status:
            call([str(a) for a in arguments])
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert status.value.code == 2 and error.startswith('error: ') and message in error
    assert sorted(tmp_path.iterdir()) == before


def test_missing_runtime_is_one_line(tmp_path, monkeypatch):
    (tmp_path / 'x.onnx').write_text('x')
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(ImportError, match='pip install onnxruntime'):
        load_exported(tmp_path / 'x.onnx')
