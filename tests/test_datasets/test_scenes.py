"""The generated scenes: deterministic, the same in both layouts, readable by both frameworks."""
import filecmp
import json

import cv2
import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmseg.datasets import ADE20KDataset
from mmseg.registry import DATASETS
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mmscheme.datasets.scenes import CLASSES, PALETTE, THINGS, draw_scene, write_scenes


def test_same_seed_same_files_whatever_the_number(tmp_path):
    a = write_scenes(tmp_path / 'a', 3, 1, (48, 64), seed=5)
    b = write_scenes(tmp_path / 'b', 2, 1, (48, 64), seed=5)
    c = write_scenes(tmp_path / 'c', 2, 1, (48, 64), seed=6)
    for path in b.rglob('*.[jp][pn]g'):
        relative = path.relative_to(b)
        assert filecmp.cmp(path, a / relative, shallow=False)
        assert not (c / relative).exists() or not filecmp.cmp(path, c / relative, shallow=False)


def test_layout(scenes):
    counts = {str(p.parent.relative_to(scenes)): 0 for p in scenes.rglob('*.*')}
    for path in scenes.rglob('*.*'):
        counts[str(path.parent.relative_to(scenes))] += 1
    counts = {k: n for k, n in counts.items() if not k.startswith('objects')}
    assert counts == {'images/training': 12, 'images/validation': 4, 'annotations/training': 12,
                      'annotations/validation': 4, 'train2017': 12, 'val2017': 4, 'annotations': 2}


def test_objects_are_cut_out_with_their_surroundings(scenes):
    coco = COCO(scenes / 'annotations' / 'instances_val2017.json')
    expected = {}
    for ann in coco.loadAnns(coco.getAnnIds()):
        x, y, w, h = ann['bbox']
        if min(w, h) >= 8:
            name = coco.loadCats(ann['category_id'])[0]['name']
            image = coco.loadImgs(ann['image_id'])[0]['file_name']
            first = min(coco.getAnnIds(ann['image_id']))
            path = f'{name}/{image[:-4]}_{ann["id"] - first}.jpg'
            expected[path] = (x + w // 2, y + h // 2, max(w, h), image)
    folder = scenes / 'objects' / 'val'
    assert {p.name for p in folder.iterdir()} == set(THINGS)
    assert {str(p.relative_to(folder)) for p in folder.rglob('*.jpg')} == set(expected)
    for path, (x, y, side, image) in expected.items():
        found = cv2.imread(str(folder / path)).astype(int)
        whole = cv2.imread(str(scenes / 'val2017' / image)).astype(int)
        part = whole[max(0, y - side):y + side, max(0, x - side):x + side]
        assert found.shape == part.shape and np.abs(found - part).mean() < 6  # JPEG twice


def test_every_class_occurs_and_some_pixels_are_unlabelled():
    labels = [draw_scene(np.random.default_rng(i)).labels for i in range(60)]
    assert set(np.unique(labels)) == set(range(len(CLASSES) + 1))


def test_coco_and_ade20k_layouts_describe_the_same_scenes(scenes):
    coco = COCO(scenes / 'annotations' / 'instances_train2017.json')
    forms = set()
    for image in coco.loadImgs(coco.getImgIds()):
        labels = cv2.imread(str(scenes / 'annotations' / 'training' /
                                image['file_name'].replace('.jpg', '.png')), -1)
        assert labels.shape == (image['height'], image['width'])
        of_things = np.zeros_like(labels)
        for ann in coco.loadAnns(coco.getAnnIds(image['id'])):
            mask = coco.annToMask(ann).astype(bool)
            forms.add(type(ann['segmentation']))
            rows, cols = np.nonzero(mask)
            x, y, w, h = ann['bbox']
            assert (x, y) == (cols.min(), rows.min())
            assert (x + w, y + h) == (cols.max() + 1, rows.max() + 1)
            assert ann['area'] == mask.sum()
            assert not of_things[mask].any(), 'visible masks do not overlap'
            of_things[mask] = ann['category_id']
        things = [c['id'] for c in coco.loadCats(coco.getCatIds())]
        assert np.array_equal(of_things, np.where(np.isin(labels, things), labels, 0))
    assert dict in forms
    for category in coco.loadCats(coco.getCatIds()):
        assert category['name'] == CLASSES[category['id'] - 1]


def test_a_whole_rectangle_is_a_polygon_and_holes_survive():
    from mmscheme.datasets.scenes import _segmentation
    box = np.zeros((10, 12), bool)
    box[2:6, 3:9] = True
    ring = box.copy()
    ring[3, 4] = False
    corner = np.zeros((10, 12), bool)
    corner[0, 0] = corner[9, 11] = True
    for mask, bounds in ((box, [3, 2, 6, 4]), (ring, [3, 2, 6, 4]), (corner, [0, 0, 12, 10])):
        form = _segmentation(mask, bounds)
        rle = coco_mask.frPyObjects(form, 10, 12)
        back = coco_mask.decode(rle if isinstance(rle, dict) else coco_mask.merge(rle))
        assert np.array_equal(back.astype(bool), mask)
    assert isinstance(_segmentation(box, [3, 2, 6, 4]), list)


def test_stock_ade20k_dataset_reads_them_with_ade20k_ids(tmp_path):
    root = write_scenes(tmp_path / 'ade', 6, 1, (48, 64), ids='ade20k')
    own = write_scenes(tmp_path / 'own', 6, 1, (48, 64))
    prefix = dict(img_path='images/training', seg_map_path='annotations/training')
    pipeline = [dict(type='mmseg.LoadAnnotations', reduce_zero_label=True)]
    ade = ADE20KDataset(data_root=str(root), data_prefix=prefix, pipeline=pipeline)
    mine = DATASETS.build(dict(type='mmscheme.ScenesDataset', data_root=str(own),
                               data_prefix=prefix, pipeline=pipeline))
    assert mine.metainfo['classes'] == CLASSES
    assert [tuple(c) for c in mine.metainfo['palette']] == list(PALETTE)
    assert len(ade) == len(mine) == 6
    for i in range(6):
        a, b = ade[i]['gt_seg_map'], mine[i]['gt_seg_map']
        names = [[*dataset.metainfo['classes'], *[''] * (256 - len(dataset.metainfo['classes']))]
                 for dataset in (ade, mine)]
        assert np.array_equal(np.array(names[0])[a], np.array(names[1])[b])


def test_stock_coco_dataset_reads_them(scenes):
    dataset = CocoDataset(data_root=str(scenes), ann_file='annotations/instances_train2017.json',
                          data_prefix=dict(img='train2017/'),
                          metainfo=dict(classes=('building', 'tree', 'rock', 'ball', 'car',
                                                 'boat')), pipeline=[])
    with open(scenes / 'annotations' / 'instances_train2017.json') as f:
        annotations = json.load(f)['annotations']
    assert len(dataset) == 12
    assert sum(len(dataset[i]['instances']) for i in range(12)) == len(annotations)


def test_nothing_is_left_of_a_failed_write(tmp_path, monkeypatch):
    calls = []

    def break_down(*args):
        calls.append(args)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return draw_scene(*args)

    monkeypatch.setattr('mmscheme.datasets.scenes.draw_scene', break_down)
    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / 'x', 10, 1)
    assert not list(tmp_path.iterdir())


def test_wrong_arguments_are_named(tmp_path):
    with pytest.raises(FileExistsError, match='exists already'):
        write_scenes(tmp_path)
    with pytest.raises(ValueError, match="ids: expected 'own' or 'ade20k', found 'coco'"):
        write_scenes(tmp_path / 'x', ids='coco')
    with pytest.raises(ValueError, match='at least 32 pixels'):
        write_scenes(tmp_path / 'x', size=(16, 64))
