"""Exported models against PyTorch on real images, where MMSCHEME_REAL_DATA names them."""
import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine import Config

from mmscheme.deploy.export import export, predict_letterboxed
from mmscheme.deploy.matching import match_boxes
from mmscheme.deploy.predictor import ExportedPredictor
from mmscheme.deploy.runtime import to_inputs
from mmscheme.models.loading import build_model, load_model
from tests.models import randomise
from tests.utils import REPOSITORY

SIDES = (96, 128)


def prepare(name, folder, spread=1., sides=SIDES):
    """A config with small inputs, and a checkpoint of random weights that tell images apart."""
    cfg = Config.fromfile(REPOSITORY / 'configs' / name)
    if cfg.default_scope != 'mmpretrain':
        cfg.test_dataloader.dataset.pipeline[1].scale = sides[::-1]
    torch.manual_seed(0)
    model = randomise(build_model(cfg))
    for key, parameter in model.named_parameters():
        if 'retina_cls.weight' in key:
            parameter.data.normal_(std=spread)
        elif 'fc_cls.weight' in key or 'rpn_cls.weight' in key:
            parameter.data.normal_(std=0.1)
        elif 'conv_logits.weight' in key:
            parameter.data.normal_(std=0.1)
        elif 'retina_reg.weight' in key:    # boxes near their anchors, as trained ones are
            parameter.data.normal_(std=spread / 5)
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(
        classes=[str(i) for i in range(1000)]))), folder / 'model.pth')
    return cfg, model, str(folder / 'model.pth')


def images(folder, number):
    found = sorted(folder.rglob('*.jpg')) + sorted(folder.rglob('*.JPEG'))
    chosen = np.linspace(0, len(found) - 1, number).astype(int)
    assert len(found) >= number
    return [found[i] for i in chosen]


def reference(model, predictor, path):
    data = predictor.pipeline(dict(img_path=str(path), img_id=0))
    with torch.no_grad():
        return model.test_step(dict(inputs=[data['inputs']],
                                    data_samples=[data['data_samples']]))[0]


@pytest.mark.slow
@pytest.mark.parametrize('name', ['upernet_scheme_s_ade20k.py', 'semantic_fpn_scheme_s_ade20k.py'])
def test_segmenters_agree_on_camvid(real_data, tmp_path, name):
    cfg, model, checkpoint = prepare(name, tmp_path)
    export(cfg, checkpoint, tmp_path / 'model.onnx', SIDES)
    predictor = ExportedPredictor(tmp_path / 'model.onnx')
    same = total = 0
    for path in images(real_data / 'camvid_as_ade20k' / 'images' / 'validation', 20):
        ours, expected = (s.pred_sem_seg.data for s in (predictor(path),
                                                        reference(model, predictor, path)))
        assert ours.shape == expected.shape == (1, *cv2.imread(str(path)).shape[:2])
        same += int((ours == expected).sum())
        total += ours.numel()
    assert same / total >= 0.9999


@pytest.mark.slow
def test_retinanet_boxes_match_on_coco(real_data, tmp_path):
    cfg, model, checkpoint = prepare('retinanet_scheme_s_coco.py', tmp_path, 0.005, (192, 256))
    shape = (192, 256)
    export(cfg, checkpoint, tmp_path / 'model.onnx', shape)
    predictor = ExportedPredictor(tmp_path / 'model.onnx')
    number = 0
    for path in images(real_data / 'coco_tiny' / 'val2017', 20):
        data = predictor.pipeline(dict(img_path=str(path), img_id=0))
        rgb = data['inputs'].numpy()[::-1].transpose(1, 2, 0)
        padded, size = predictor._fit(rgb)
        inputs = to_inputs(np.ascontiguousarray(padded.transpose(2, 0, 1)[None]), predictor.meta,
                           list(size))
        expected = predict_letterboxed(cfg, model, padded[:size[0], :size[1], ::-1], shape)
        match = match_boxes(predictor.exported.run(inputs), expected)
        # In pixels; boxes of random weights are large, and float32 has seven digits.
        assert match.pixels <= 1e-4 * max(shape) and not match.alone, (path.name, match)
        assert match.scores <= 1e-3
        number += match.number
    assert number >= 400


@pytest.mark.slow
def test_mask_rcnn_boxes_and_masks_match_on_coco(real_data, tmp_path):
    shape = (192, 256)
    cfg, _, _ = prepare('mask_rcnn_scheme_s_coco.py', tmp_path, sides=shape)
    cfg.model.test_cfg.rpn.update(nms_pre=100, max_per_img=100)
    cfg.model.test_cfg.rcnn.max_per_img = 15
    model, _ = load_model(cfg, str(tmp_path / 'model.pth'))
    export(cfg, str(tmp_path / 'model.pth'), tmp_path / 'model.onnx', shape)
    predictor = ExportedPredictor(tmp_path / 'model.onnx')
    number = shared = total = 0
    for path in images(real_data / 'coco_tiny' / 'val2017', 20):
        data = predictor.pipeline(dict(img_path=str(path), img_id=0))
        rgb, size = predictor._fit(data['inputs'].numpy()[::-1].transpose(1, 2, 0))
        picture = np.ascontiguousarray(rgb[:size[0], :size[1], ::-1])
        expected = predict_letterboxed(cfg, model, picture, shape)
        sample = DetDataSample(metainfo=dict(ori_shape=size))
        found = predictor.predict(torch.from_numpy(picture).permute(2, 0, 1),
                                  sample).pred_instances
        assert found.masks.shape[1:] == expected.masks.shape[1:] == size
        order = [int((expected.bboxes - box).abs().sum(1).add(
            1e4 * (expected.labels != label)).argmin())
            for box, label in zip(found.bboxes, found.labels)]
        assert sorted(order) == list(range(len(expected)))
        expected = expected[order]
        assert (found.bboxes - expected.bboxes).abs().max() <= 1e-3, path.name
        assert (found.scores - expected.scores).abs().max() <= 1e-3
        both, either = ((found.masks & expected.masks).sum((1, 2)),
                        (found.masks | expected.masks).sum((1, 2)))
        # A pixel of a small mask is more than a thousandth of it.
        assert (either - both).max() <= 2, path.name
        shared, total = shared + int(both.sum()), total + int(either.sum())
        number += int((either > 0).sum())
    assert number >= 200 and shared / total >= 0.999


@pytest.mark.slow
def test_classifier_agrees_on_imagenette(real_data, tmp_path):
    cfg, model, checkpoint = prepare('cls_scheme_s_in1k.py', tmp_path)
    export(cfg, checkpoint, tmp_path / 'model.onnx')
    predictor = ExportedPredictor(tmp_path / 'model.onnx')
    labels = []
    for path in images(real_data / 'imagenette_subset' / 'val', 100):
        label = int(predictor(path).pred_label)
        assert label == int(reference(model, predictor, path).pred_label)
        labels.append(label)
    assert len(set(labels)) > 1
