"""Images of one name in several folders: a file for each, and each of its own image."""
import json
import shutil

import cv2
import numpy as np
import pytest

from mmscheme.apis.test import build_test_runner
from mmscheme.datasets.scenes import write_scenes
from tests.models import new_name, tiny_checkpoint, tiny_config

FOLDERS = 'abc'


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """Test images ``scene_00000.jpg`` and ``scene_00001.jpg`` in each of three folders."""
    root = write_scenes(tmp_path_factory.mktemp('data') / 'scenes', 1, 6, (64, 80))
    for folder, suffix in ('images', 'jpg'), ('annotations', 'png'):
        for number, path in enumerate(sorted((root / folder / 'validation').glob('*'))):
            target = path.parent / FOLDERS[number // 2] / f'scene_{number % 2:05d}.{suffix}'
            target.parent.mkdir(exist_ok=True)
            path.rename(target)
    truth = root / 'annotations' / 'instances_val2017.json'
    content = json.loads(truth.read_text())
    for number, image in enumerate(content['images']):
        source = root / 'val2017' / image['file_name']
        image['file_name'] = f'{FOLDERS[number // 2]}/scene_{number % 2:05d}.jpg'
        (root / 'val2017' / image['file_name']).parent.mkdir(exist_ok=True)
        shutil.copy(source, root / 'val2017' / image['file_name'])
    truth.write_text(json.dumps(content))
    for kind in (root / 'objects' / 'val').iterdir():
        for number, path in enumerate(sorted(kind.iterdir())):
            path.rename(kind / f'object_{number}.jpg')
    return root


def run_test(task, root, folder, options=(), **arguments):
    _, checkpoint, _ = tiny_checkpoint(task, folder)
    cfg = tiny_config(task, root, folder / 'w')
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.merge_from_dict(dict(options))
    cfg.experiment_name = new_name()
    build_test_runner(cfg, checkpoint, **arguments).test()


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.slow
def test_segmentation(folders, tmp_path):
    run_test('upernet', folders, tmp_path, out=str(tmp_path / 'all'),
           show_dir=str(tmp_path / 'pictures'))
    expected = [f'scene_0000{i}{n}.png' for i in (0, 1) for n in ('', '_2', '_3')]
    assert names(tmp_path / 'all') == names(tmp_path / 'pictures') == sorted(expected)
    for letter, number in zip(FOLDERS, ('', '_2', '_3')):
        # A folder alone, for which mmsegmentation's own names do.
        options = {'test_dataloader.dataset.data_prefix': dict(
            img_path=f'images/validation/{letter}',
            seg_map_path=f'annotations/validation/{letter}')}
        run_test('upernet', folders, tmp_path, options, out=str(tmp_path / letter))
        for stem in ('scene_00000', 'scene_00001'):
            mask = cv2.imread(str(tmp_path / letter / f'{stem}.png'), -1)
            assert np.array_equal(mask, cv2.imread(str(
                tmp_path / 'all' / f'{stem}{number}.png'), -1))


@pytest.mark.slow
@pytest.mark.parametrize('task', ['mask_rcnn', 'retinanet'])
def test_detection(task, folders, tmp_path):
    run_test(task, folders, tmp_path, show_dir=str(tmp_path / 'pictures'))
    expected = {f'scene_0000{i}{n}.jpg': folders / 'val2017' / letter / f'scene_0000{i}.jpg'
                for i in (0, 1) for letter, n in zip(FOLDERS, ('', '_2', '_3'))}
    assert names(tmp_path / 'pictures') == sorted(expected)
    for name in expected:
        # Truth beside prediction, drawn over an image that shows through.
        picture = cv2.imread(str(tmp_path / 'pictures' / name))
        distances = {other: np.abs(picture[:, :80].astype(int) - cv2.imread(str(source))).mean()
                     for other, source in expected.items()}
        assert picture.shape == (64, 160, 3) and min(distances, key=distances.get) == name


@pytest.mark.slow
def test_classification(folders, tmp_path):
    images = sorted((folders / 'objects' / 'val').rglob('*.jpg'))
    assert len({p.name for p in images}) < len(images)
    run_test('cls', folders, tmp_path, show_dir=str(tmp_path / 'pictures'))
    assert len(names(tmp_path / 'pictures')) == len(images)
    for stem in {p.stem for p in images}:
        for number, path in enumerate(sorted(p for p in images if p.stem == stem), 1):
            name = f'{stem}.jpg' if number == 1 else f'{stem}_{number}.jpg'
            picture = cv2.imread(str(tmp_path / 'pictures' / name)).astype(int)
            image = cv2.resize(cv2.imread(str(path)), (64, 64))
            assert np.abs(picture - image)[-20:].mean() < 5, path  # below the text
