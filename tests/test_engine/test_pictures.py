"""Pictures of a segmenter's predictions."""
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmscheme.engine.hooks import SegPictureHook

META = dict(classes=('a', 'b'), palette=[[255, 0, 0], [0, 255, 0]])


class Images(BaseDataset):
    """Image files in a given order."""

    def __init__(self, paths):
        self.paths = paths
        super().__init__(metainfo=META)

    def load_data_list(self):
        return [dict(img_path=path) for path in self.paths]


def sample(path):
    label = PixelData(data=torch.zeros(1, 8, 9, dtype=torch.long))
    return SegDataSample(metainfo=dict(img_path=path), pred_sem_seg=label)


def draw(dataset, out_dir, paths):
    """What one process does."""
    hook = SegPictureHook(str(out_dir))
    runner = SimpleNamespace(test_dataloader=SimpleNamespace(dataset=dataset))
    hook.before_test(runner)
    for i, path in enumerate(paths):
        hook.after_test_iter(runner, i, None, [sample(path)])


@pytest.fixture
def paths(tmp_path):
    """Images of grey values 0, 40, ... in the order of their paths."""
    names = 'a/x.png', 'a/y.png', 'b/x.bmp', 'b/x.png', 'b/x_2.png'
    for i, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.full((8, 9, 3), 40 * i, np.uint8))
    return [str(tmp_path / name) for name in names]


@pytest.mark.parametrize('order', [1, -1])
@pytest.mark.parametrize('processes', [1, 2])
def test_each_image_has_its_picture_in_any_order(paths, processes, order, tmp_path):
    for rank in range(processes)[::order]:
        draw(Images(paths[::order]), tmp_path / 'out', paths[rank::processes][::order])
    values = {p.name: int(cv2.imread(str(p))[30, 4, 0]) for p in (tmp_path / 'out').iterdir()}
    assert values == {'x.png': 0, 'y.png': 40, 'x_3.png': 80, 'x_4.png': 120, 'x_2.png': 160}


def test_names_stay_where_no_two_are_the_same(paths, tmp_path):
    draw(Images(paths[1:3]), tmp_path / 'out', paths[1:3])
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['x.png', 'y.png']


def test_other_data_sets_are_drawn_too(paths, tmp_path):
    draw(SimpleNamespace(metainfo=META), tmp_path / 'out', paths[:2])
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['x.png', 'y.png']
