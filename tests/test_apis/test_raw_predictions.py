"""Predictions as data, and tests of exported files, against each framework's own metric."""
import json
import pickle
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmseg.datasets import ADE20KDataset
from mmseg.datasets.transforms import LoadAnnotations
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pycocotools.mask import encode

from mmscheme.apis.config import load_config
from mmscheme.apis.inference import load_predictor
from mmscheme.apis.raw_predictions import read_numbers
from mmscheme.apis.test import test as run_test
from mmscheme.deploy.export import export
from mmscheme.deploy.runtime import load_exported
from mmscheme.models.loading import label_ids
from tests.commands import load_tool
from tests.models import new_name, tiny_checkpoint, tiny_config

predict_main = load_tool('predict').main
exported_main = load_tool('deploy/predict').main
main_of_test = load_tool('test').main
IMAGES = dict(upernet='images/validation', cls='objects/val')


def prepare(task, scenes, folder):
    """Return a config whose random model has a metric that small changes move."""
    config, checkpoint, _ = tiny_checkpoint(task, folder)
    cfg = tiny_config(task, scenes, folder / 'runs')
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    if cfg.default_scope == 'mmdet':
        cfg.test_dataloader.dataset.pipeline[1].scale = (160, 128)
        cfg.test_dataloader.dataset.ann_file = cfg.test_evaluator.ann_file = str(
            folder / 'truth.json')
    cfg.dump(config)
    case = SimpleNamespace(task=task, folder=folder, config=str(config), checkpoint=checkpoint,
                           images=scenes / IMAGES.get(task, 'val2017'), cfg=cfg)
    if cfg.default_scope == 'mmdet':
        write_truth(case)
    return case


def write_truth(case):
    """Write annotations near what the model finds, with ids that count nothing."""
    find, _, meta, _ = load_predictor(load_config(case.config), case.checkpoint, 'cpu')
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i, path in enumerate(sorted(case.images.iterdir())[::-1]):
        image = cv2.imread(str(path))
        images.append(dict(id=70 + 3 * i, file_name=path.name, height=64, width=80))
        found = find(image).pred_instances
        for k, (box, label) in enumerate(zip(found.bboxes.numpy()[:20], found.labels.tolist())):
            sides = np.tile(box[2:] - box[:2], 2)
            x, y, right, bottom = (box + rng.normal(0, 0.06, 4) * sides).clip(0, 80)
            w, h = max(right - x, 2.), max(bottom - y, 2.)
            outline = [[float(v) for v in (x, y, x + w, y, x + w, y + h, x, y + h)]]
            if 'masks' in found:
                outline = encode(np.asfortranarray(np.roll(found.masks[k].numpy(), 1, 1), np.uint8))
                outline['counts'] = outline['counts'].decode()
            annotations.append(dict(
                id=len(annotations) + 1, image_id=images[-1]['id'], category_id=11 + 5 * label,
                bbox=[float(v) for v in (x, y, w, h)], area=float(w * h), iscrowd=0,
                segmentation=outline))
    assert len(annotations) > 20
    (case.folder / 'truth.json').write_text(json.dumps(dict(
        images=images, annotations=annotations, categories=[
            dict(id=11 + 5 * i, name=name) for i, name in enumerate(meta['classes'])])))


def measure(case, checkpoint=None, **options):
    cfg = load_config(case.config)
    cfg.experiment_name = new_name()
    return run_test(cfg, checkpoint, preflight=False, **options).metrics


@pytest.fixture(scope='module')
def detector(scenes, tmp_path_factory):
    return prepare('retinanet', scenes, tmp_path_factory.mktemp('retinanet'))


@pytest.fixture(scope='module')
def segmenter(scenes, tmp_path_factory):
    return prepare('upernet', scenes, tmp_path_factory.mktemp('upernet'))


@pytest.fixture(scope='module')
def classifier(scenes, tmp_path_factory):
    return prepare('cls', scenes, tmp_path_factory.mktemp('cls'))


def coco_map(truth, results, kind='bbox'):
    coco = COCO(str(truth))
    evaluation = COCOeval(coco, coco.loadRes(str(results)), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[0]


def check_exported(case, **tolerance):
    """Compare the metrics of an exported file, at its default size, with the checkpoint's."""
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    expected = measure(case, case.checkpoint)
    target = case.folder / 'model.onnx'
    export(load_config(case.config), case.checkpoint, target)
    found = measure(case, exported=str(target))
    assert found.keys() == expected.keys() and len(found) > 0
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, nan_ok=True, **tolerance), key
    return target, expected


@pytest.mark.slow
def test_detections_have_the_map_of_the_test(detector, tmp_path, capsys):
    target, metrics = check_exported(detector, abs=2e-3)
    assert 0.02 < metrics['coco/bbox_mAP'] < 0.98
    results, truth = tmp_path / 'found.json', detector.folder / 'truth.json'
    predict_main([detector.config, detector.checkpoint, str(detector.images), '--json',
                  str(results)])
    assert f'ids are those of {truth}' in capsys.readouterr().out
    assert coco_map(truth, results) == pytest.approx(metrics['coco/bbox_mAP'], abs=6e-4)
    assert [p.name for p in tmp_path.iterdir()] == ['found.json']  # no pictures
    exported_main([str(target), str(detector.images), '--json', str(results), '--ann-file',
                   str(truth)])
    assert coco_map(truth, results) == pytest.approx(metrics['coco/bbox_mAP'], abs=2e-3)
    # Without annotations the inputs are counted.
    exported_main([str(target), str(detector.images), '--json', str(results), '--out',
                   str(tmp_path / 'pictures')])
    assert len(list((tmp_path / 'pictures').iterdir())) == 4
    entries = json.loads(results.read_text())
    names = {e['image_id']: e['file_name'] for e in entries}
    assert names == {i: str(p) for i, p in enumerate(sorted(detector.images.iterdir()), 1)}
    assert {e['category_id'] for e in entries} <= set(range(1, 7))


@pytest.mark.slow
def test_instance_masks_have_the_map_of_the_test(scenes, tmp_path):
    case = prepare('mask_rcnn', scenes, tmp_path)
    target, metrics = check_exported(case, abs=5e-3)
    assert 0.02 < metrics['coco/segm_mAP'] < 0.98
    results, truth = tmp_path / 'found.json', tmp_path / 'truth.json'
    for main, model, tolerance in ((predict_main, [case.config, case.checkpoint], 6e-4),
                                   (exported_main, [str(target), '--ann-file', str(truth)], 5e-3)):
        main([*model, str(case.images), '--json', str(results)])
        for kind in ('bbox', 'segm'):
            assert coco_map(truth, results, kind) == pytest.approx(
                metrics[f'coco/{kind}_mAP'], abs=tolerance)


def read_masks(folder):
    return {p.name: cv2.imread(str(p), cv2.IMREAD_UNCHANGED) for p in sorted(folder.iterdir())}


@pytest.mark.slow
def test_label_maps_have_the_miou_of_the_test(segmenter, scenes, tmp_path, capsys):
    target, metrics = check_exported(segmenter, abs=0.02)
    predict_main([segmenter.config, segmenter.checkpoint, str(segmenter.images), '--masks',
                  str(tmp_path / 'own')])
    measure(segmenter, segmenter.checkpoint, out=str(tmp_path / 'stock'))
    exported_main([str(target), str(segmenter.images), '--masks', str(tmp_path / 'exported')])
    own, stock, exported = (read_masks(tmp_path / n) for n in ('own', 'stock', 'exported'))
    truth = read_masks(scenes / 'annotations' / 'validation')
    assert list(own) == list(stock) == list(exported) == list(truth)
    intersection, union = np.zeros(10), np.zeros(10)
    for name, labels in own.items():
        assert labels.dtype == np.uint8 and np.array_equal(labels, stock[name])
        assert (labels == exported[name]).mean() > 0.999
        for i in range(1, 10):
            a, b = (m[truth[name] > 0] == i for m in (labels, truth[name]))
            intersection[i] += (a & b).sum()
            union[i] += (a | b).sum()
    seen = union > 0
    assert 100 * (intersection[seen] / union[seen]).mean() == pytest.approx(
        metrics['mIoU'], abs=0.006)
    capsys.readouterr()
    main_of_test([segmenter.config, '--exported', str(target), '--work-dir', str(tmp_path / 'w'),
                  '--out', str(tmp_path / 'tested'), '--show-dir', str(tmp_path / 'pictures')])
    assert 'mIoU: ' in capsys.readouterr().out
    assert read_masks(tmp_path / 'tested').keys() == truth.keys()
    assert len(list((tmp_path / 'pictures').iterdir())) == len(truth)


@pytest.mark.slow
def test_scores_of_a_classifier_have_the_accuracy_of_the_test(classifier, tmp_path):
    target, metrics = check_exported(classifier, abs=1e-6)
    measure(classifier, classifier.checkpoint, out=str(tmp_path / 'stock.pkl'))
    stock = {s['img_path']: s['pred_score'].numpy() for s in pickle.loads(
        (tmp_path / 'stock.pkl').read_bytes())}
    folders = sorted(p.name for p in classifier.images.iterdir())
    for main, model in ((predict_main, [classifier.config, classifier.checkpoint]),
                        (exported_main, [str(target)])):
        main([*model, str(classifier.images), '--json', str(tmp_path / 'scores.json')])
        content = json.loads((tmp_path / 'scores.json').read_text())
        right = [i['labels'] == [folders.index(i['file_name'].split('/')[-2])]
                 for i in content['images']]
        assert 100 * np.mean(right) == pytest.approx(metrics['accuracy/top1'], abs=1e-3)
        assert {i['file_name'] for i in content['images']} == stock.keys()
        assert all(np.allclose(i['scores'], stock[i['file_name']], atol=1e-4)
                   and i['labels'] == [int(np.argmax(i['scores']))] for i in content['images'])
        assert len(content['classes']) == len(content['images'][0]['scores'])


@pytest.mark.slow
def test_openvino_has_the_metric_too(classifier):
    pytest.importorskip('openvino')
    target, expected = check_exported(classifier, abs=1e-6)
    assert measure(classifier, exported=str(target), runtime='openvino') == pytest.approx(expected)


@pytest.mark.parametrize('reduced', [True, False])
def test_ids_are_those_that_masks_are_read_with(reduced, tmp_path):
    chosen = ('tree', 'wall', 'sky')
    cfg = load_config(tiny_config_file(tmp_path, chosen, reduced))
    meta = dict(classes=chosen)
    ids = label_ids(cfg, meta)
    cv2.imwrite(str(tmp_path / 'mask.png'), np.array([ids], np.uint8))
    dataset = ADE20KDataset(lazy_init=True, reduce_zero_label=reduced, metainfo=meta)
    read = LoadAnnotations()(dict(
        seg_map_path=str(tmp_path / 'mask.png'), label_map=dataset.label_map,
        reduce_zero_label=reduced, seg_fields=[]))
    assert read['gt_seg_map'].tolist() == [0, 1, 2]


def tiny_config_file(folder, classes, reduced):
    cfg = tiny_config('upernet')
    cfg.test_dataloader.dataset.update(type='ADE20KDataset', metainfo=dict(classes=classes),
                                       reduce_zero_label=reduced)
    cfg.dump(folder / 'config.py')
    return folder / 'config.py'


def test_annotations_give_ids_by_the_end_of_a_path(tmp_path):
    content = dict(categories=[dict(id=4, name='b'), dict(id=9, name='other'),
                               dict(id=2, name='a')], images=[
        dict(id=5, file_name='x/1.jpg'), dict(id=7, file_name='y/1.jpg'),
        dict(id=6, file_name='2.jpg')])
    file = tmp_path / 'truth.json'
    file.write_text(json.dumps(content))
    files = [tmp_path / n for n in ('y/1.jpg', 'z/2.jpg', 'x/1.jpg')]
    numbers = read_numbers(file, ['b', 'a'], files)
    assert numbers.images == [7, 6, 5] and numbers.categories == [4, 2]
    for classes, images, found in ((['a', 'b'], files, "['b', 'a']"),
                                   (['b', 'a'], [tmp_path / '1.jpg'], '1.jpg'),
                                   (['b', 'a'], [*files, tmp_path / '2.jpg'], '2.jpg')):
        with pytest.raises(ValueError) as error:
            read_numbers(file, classes, images)
        assert str(file) in str(error.value) and found in str(error.value)
    file.write_text('[]')
    with pytest.raises(ValueError, match='truth.json'):
        read_numbers(file, ['a'], files)


def test_what_a_task_has_no_file_for_is_said(segmenter, classifier, tmp_path, capsys):
    image = str(next(segmenter.images.iterdir()))
    cls, seg = ([c.config, c.checkpoint] for c in (classifier, segmenter))
    file = tmp_path / 'found.json'
    for arguments, name in (((*seg, image, '--json', file), '--json'),
                            ((*cls, image, '--masks', tmp_path), '--masks'),
                            ((*cls, image, '--json', tmp_path / 'x.txt'), '--json'),
                            ((*cls, image, '--json', file, '--ann-file', file), '--ann-file'),
                            ((*seg, image, '--masks', segmenter.images), image)):
        if name == image:  # a mask of the name of an input
            copy = tmp_path / 'in' / 'a.png'
            copy.parent.mkdir()
            cv2.imwrite(str(copy), cv2.imread(image))
            arguments, name = (*seg, copy, '--masks', copy.parent), str(copy)
        with pytest.raises(SystemExit) as status:
            predict_main([str(a) for a in arguments])
        error, = capsys.readouterr().err.strip().splitlines()
        assert status.value.code == 2 and error.startswith('error: ') and name in error
    assert not file.exists()


def test_a_file_of_another_model_is_not_tested(segmenter, classifier, tmp_path):
    target = tmp_path / 'model.pt'
    export(load_config(segmenter.config), segmenter.checkpoint, target, (64, 64))
    for case, options, name in (
            (classifier, {}, 'scope'), (segmenter, dict(tta=True), '--tta'),
            (segmenter, dict(report='x'), '--report'), (segmenter, dict(keep_cca=True), 'keep-cca'),
            (segmenter, dict(checkpoint=segmenter.checkpoint), 'checkpoint'),
            (segmenter, dict(runtime='openvino'), 'openvino')):
        with pytest.raises((ValueError, ImportError), match=name):
            measure(case, exported=str(target), **options)
    cfg = load_config(segmenter.config)
    cfg.test_dataloader.dataset.metainfo = dict(classes=load_exported(target).meta['classes'][::-1])
    with pytest.raises(ValueError, match='classes'):
        run_test(cfg, None, exported=str(target), preflight=False)
    with pytest.raises(FileNotFoundError, match='no.onnx'):
        measure(segmenter, exported=str(tmp_path / 'no.onnx'))
    assert torch.jit.load(str(target)) is not None
