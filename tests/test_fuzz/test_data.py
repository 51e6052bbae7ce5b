"""Damaged annotations, images and masks: what the checks let pass can be trained on."""
import copy
import io
import json
import shutil

import cv2
import numpy as np
import pytest
from mmengine import Config
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

from mmscheme.checks import check_data
from mmscheme.datasets.scenes import write_scenes
from tests.bad_inputs import Box
from tests.test_fuzz.mutate import JUNK, mutate_bytes, mutate_structure, numbers, time_limit

PART, FULL = 30, 350


@pytest.fixture(scope='module')
def boxes(tmp_path_factory):
    scenes = write_scenes(tmp_path_factory.mktemp('fuzz') / 'scenes', 3, 1, (48, 64))
    return Box(tmp_path_factory.mktemp('box'), scenes)


def config(box, task):
    cfg = Config.fromfile(box.config(task))
    init_default_scope(cfg.default_scope)
    # Without the collection of garbage that takes most of the time.
    cfg.train_dataloader.dataset.update(data_root=str(box.scenes), serialize_data=False)
    return cfg


def check_and_read(cfg):
    """Whether the checks let the data pass; then all samples must be read."""
    with time_limit(60):
        findings = check_data(cfg, ('train', ))
        assert all(len(e.splitlines()) == 1 for e in findings.errors)
        if findings.errors:
            return False
        dataset = DATASETS.build(copy.deepcopy(cfg.train_dataloader.dataset))
        for i in range(len(dataset)):
            dataset[i]
    return True


@pytest.mark.parametrize('chunk', range(5))
def test_damaged_annotations(chunk, fuzz_full, boxes):
    cfg = config(boxes, 'det')
    path = boxes.scenes / 'annotations' / 'instances_train2017.json'
    good = path.read_bytes()
    content = json.loads(good)
    junk = [j for j in JUNK if not isinstance(j, bytes)]
    passed = 0
    try:
        for rng in numbers(FULL if fuzz_full else PART)[chunk::5]:
            if rng.random() < 0.3:
                path.write_bytes(mutate_bytes(good, rng))
            else:
                path.write_text(json.dumps(mutate_structure(content, rng, junk)))
            passed += check_and_read(cfg)
    finally:
        path.write_bytes(good)
    assert check_and_read(cfg) and passed < len(range(chunk, FULL if fuzz_full else PART, 5))


def other_kind(path, rng):
    """The file in another form: other types, channels, depths and sizes."""
    image = Image.open(path)
    kind = rng.choice(['CMYK', 'L', '1', 'P', 'RGBA', 'I;16', 'F', 'gif', 'webp', 'bmp', 'tiff',
                       'half', 'one', 'html', 'empty', 'exif'])
    buffer = io.BytesIO()
    if kind in ('CMYK', 'L', '1', 'P', 'RGBA'):
        image.convert(kind).save(buffer, 'JPEG' if kind in ('CMYK', 'L') else 'PNG')
    elif kind == 'I;16':
        ids = np.asarray(image.convert('L')).astype(np.uint16) * rng.choice([1, 257])
        return cv2.imencode('.png', ids)[1].tobytes()
    elif kind == 'F':
        image.convert('F').save(buffer, 'TIFF')
    elif kind in ('gif', 'webp', 'bmp', 'tiff'):
        image.convert('RGB').save(buffer, kind)
    elif kind in ('half', 'one'):
        size = (32, 48) if kind == 'half' else (1, 1)
        image.resize(size, Image.NEAREST).save(buffer, 'PNG')
    elif kind == 'exif':
        exif = Image.Exif()
        exif[0x0112] = rng.choice([3, 6, 8])
        image.save(buffer, 'JPEG' if image.mode == 'RGB' else 'PNG', exif=exif)
    return dict(html=b'<html></html>', empty=b'').get(kind, buffer.getvalue())


@pytest.mark.parametrize('folder', ['images', 'annotations'])
@pytest.mark.parametrize('chunk', range(3))
def test_damaged_images_and_masks(folder, chunk, fuzz_full, boxes):
    cfg = config(boxes, 'seg')
    path = boxes.image(folder)
    good = path.read_bytes()
    try:
        for rng in numbers(FULL if fuzz_full else PART)[chunk::3]:
            path.write_bytes(mutate_bytes(good, rng) if rng.random() < 0.7 else
                             other_kind(io.BytesIO(good), rng))
            check_and_read(cfg)
    finally:
        path.write_bytes(good)
    assert check_and_read(cfg)


def test_folders_and_links_in_the_place_of_images(boxes, tmp_path):
    cfg = config(boxes, 'seg')
    path = boxes.image()
    kept = shutil.copy(path, tmp_path / 'kept.jpg')
    try:
        path.unlink()
        path.symlink_to(tmp_path / 'nowhere.jpg')
        assert not check_and_read(cfg)
        path.unlink()
        path.symlink_to(kept)
        assert check_and_read(cfg)
    finally:
        path.unlink()
        shutil.copy(kept, path)
