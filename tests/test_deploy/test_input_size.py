"""Graphs have the size that a config tests with, and what padding changes is said."""
import re

import cv2
import numpy as np
import pytest
import torch
from mmseg.structures import SegDataSample

from mmscheme.datasets.scenes import draw_scene
from mmscheme.deploy.export import export
from mmscheme.deploy.input_size import describe_padding
from mmscheme.deploy.input_size import tested_shape as shape_of
from mmscheme.models.loading import load_model
from tests.models import tiny_checkpoint, tiny_config


def test_the_commonest_size_of_the_test_images(scenes, tmp_path):
    cfg = tiny_config('upernet', scenes)
    assert cfg.model.data_preprocessor.size == (128, 128)
    shape, source = shape_of(cfg)
    assert shape == (128, 160) and '4 of 4' in source and '128x160' in source
    cfg.model.data_preprocessor.test_cfg = dict(size_divisor=96)
    assert shape_of(cfg)[0] == (192, 192)
    cfg.model.data_preprocessor.test_cfg = dict(size=(70, 90))
    assert shape_of(cfg)[0] == (70, 90)
    cfg = tiny_config('upernet', scenes)
    folder = tmp_path / 'images'
    folder.mkdir()
    for i, size in enumerate([(80, 64), (64, 80), (64, 80)]):  # height, width
        cv2.imwrite(str(folder / f'{i}.jpg'), np.zeros((*size, 3), np.uint8))
    cfg.test_dataloader.dataset.data_prefix.img_path = str(folder)
    shape, source = shape_of(cfg)
    assert shape == (128, 160) and '2 of 3' in source
    (folder / '3.jpg').write_bytes(b'not an image')
    assert shape_of(cfg) == (shape, source)
    cfg.model.test_cfg = dict(mode='slide', crop_size=(96, 64), stride=(64, 64))
    assert shape_of(cfg) == ((96, 64), '')


def test_without_images_the_config_has_to_say_it(tmp_path):
    cfg = tiny_config('upernet', tmp_path / 'nothing')
    with pytest.raises(ValueError, match='--shape'):
        shape_of(cfg)
    cfg.test_dataloader.dataset.pipeline[1].keep_ratio = False
    assert shape_of(cfg) == ((128, 160), '')
    assert shape_of(tiny_config('cls', tmp_path / 'nothing')) == ((64, 64), '')


@pytest.mark.parametrize('task, shape', [('cls', (28, 28)), ('upernet', (40, 36))])
def test_small_graphs(task, shape, tmp_path):
    """Smaller than the pictures that they are compared with can be drawn."""
    _, checkpoint, cfg = tiny_checkpoint(task, tmp_path)
    checks, _ = export(cfg, checkpoint, tmp_path / 'model.pt', shape=shape)
    assert len(checks) == 2 and all(check.passed for check in checks)


def test_the_note_tells_what_padding_changes(scenes, tmp_path):
    _, checkpoint, _ = tiny_checkpoint('upernet', tmp_path)
    cfg = tiny_config('upernet', scenes)
    _, notes = export(cfg, checkpoint, tmp_path / 'model.pt')
    assert any('128x160' in note for note in notes)
    assert any('96x120' in note and '% of its labels' in note for note in notes)
    model, _ = load_model(cfg, checkpoint)
    picture = draw_scene(np.random.default_rng(1), 96, 120).image
    note = describe_padding(cfg, model, tmp_path / 'model.pt', picture)
    mean = model.data_preprocessor.mean.flatten().round().numpy()[::-1].astype(np.uint8)
    padded = np.tile(mean, (128, 160, 1))  # the colour that normalising makes 0
    padded[:96, :120] = picture

    def labels(image):
        sample = SegDataSample(metainfo=dict.fromkeys(('ori_shape', 'img_shape'), image.shape[:2]))
        data = dict(inputs=[torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))],
                    data_samples=[sample])
        with torch.no_grad():
            return model.test_step(data)[0].pred_sem_seg.data[0, :96, :120]

    same = 100 * (labels(padded) == labels(picture)).float().mean().item()
    said = float(re.search(r'([\d.]+)% of its labels', note)[1])
    assert same < 99.9 and said == pytest.approx(same, abs=0.15)
