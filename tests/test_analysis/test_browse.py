"""Pictures of samples: what is drawn is what the model gets."""
import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine import Config
from mmengine.registry import TRANSFORMS

from mmscheme.analysis.browse_dataset import browse
from mmscheme.apis.config import load_config
from mmscheme.datasets.scenes import PALETTE
from tests.commands import load_tool
from tests.utils import REPOSITORY

main = load_tool('analysis_tools/browse_dataset').main

CONFIGS = REPOSITORY / 'configs'


@TRANSFORMS.register_module()
class OwnReader(LoadImageFromFile):
    """A reader of which the name does not say that it loads."""


@pytest.mark.parametrize('reader', ['LoadImageFromFile', 'OwnReader'])
def test_segmentation(reader, scenes, tmp_path):
    cfg = load_config(CONFIGS / 'upernet_scheme_s_demo.py', data_root=str(scenes))
    cfg.val_dataloader.dataset.pipeline[0].type = reader
    paths = browse(cfg, str(tmp_path), 'val', number=2)
    assert [p.name for p in paths] == ['000000_scene_00000.png', '000003_scene_00003.png']
    truth = cv2.imread(str(scenes / 'annotations' / 'validation' / 'scene_00003.png'), -1)
    image = cv2.imread(str(scenes / 'images' / 'validation' / 'scene_00003.jpg'))
    # Resized to 128 rows by the pipeline and twice that by the picture.
    picture = cv2.imread(str(paths[1]))[22:22 + 256:2, :2 * 320:2]
    assert np.array_equal(picture[:, :160], cv2.resize(image, (160, 128)))
    labels = cv2.resize(truth, (160, 128), interpolation=cv2.INTER_NEAREST)
    colours = np.array([(0, 0, 0), *PALETTE])[:, ::-1][labels]
    expected = np.where(labels[..., None] > 0, 0.25 * picture[:, :160] + 0.75 * colours, 0)
    assert (np.abs(picture[:, 160:] - expected).max(-1) > 1).mean() < 0.02  # edges


def test_detection_marks_the_objects_in_the_resized_image(scenes, tmp_path):
    cfg = load_config(CONFIGS / 'mask_rcnn_scheme_s_demo.py', data_root=str(scenes))
    for split, number in (('train', 3), ('test', 2)):
        paths = browse(cfg, str(tmp_path / split), split, number)
        assert len(paths) == number == len(list((tmp_path / split).iterdir()))
    labels = cv2.imread(str(scenes / 'annotations' / 'validation' / 'scene_00000.png'), -1)
    labels = cv2.resize(labels, (160, 128), interpolation=cv2.INTER_NEAREST)
    image = cv2.resize(cv2.imread(str(scenes / 'val2017' / 'scene_00000.jpg')), (160, 128))
    changed = np.abs(cv2.imread(str(tmp_path / 'test' / '000000_scene_00000.png')).astype(int) -
                     image).max(-1) > 12
    assert changed[labels >= 4].mean() > 0.8 and changed[labels == 1].mean() < 0.3


def test_augmentation_is_drawn_and_repeatable(scenes, tmp_path):
    cfg = load_config(CONFIGS / 'upernet_scheme_s_demo.py', data_root=str(scenes))
    one, two, three = (cv2.imread(str(browse(cfg, str(tmp_path / str(i)), number=1, seed=seed)[0]))
                       for i, seed in enumerate((5, 5, 6)))
    assert np.array_equal(one, two)
    assert one.shape != three.shape or not np.array_equal(one, three)


def test_classification_and_data_without_labels(scenes, tmp_path):
    for k, name in enumerate(('cat', 'dog')):
        (tmp_path / 'data' / name).mkdir(parents=True)
        for i in range(2):
            cv2.imwrite(str(tmp_path / 'data' / name / f'{i}.png'),
                        np.full((20, 30, 3), 100 * k, np.uint8))
    cfg = Config(dict(
        default_scope='mmpretrain', model=dict(type='ImageClassifier'),
        visualizer=dict(type='UniversalVisualizer'),
        train_dataloader=dict(dataset=dict(
            type='CustomDataset', data_root=str(tmp_path / 'data'), pipeline=[
                dict(type='LoadImageFromFile'), dict(type='PackInputs')]))))
    assert len(browse(cfg, str(tmp_path / 'out'))) == 4
    assert cv2.imread(str(tmp_path / 'out' / '000002_0.png'))[-1, -1].tolist() == [100] * 3
    cfg = load_config(CONFIGS / 'upernet_scheme_s_demo.py', data_root=str(scenes))
    dataset = cfg.test_dataloader.dataset
    dataset.pipeline = [s for s in dataset.pipeline if s.type != 'LoadAnnotations']
    picture = cv2.imread(str(browse(cfg, str(tmp_path / 'bare'), 'test', 1)[0]))
    assert picture.shape[1] == 2 * 160


def test_errors_are_one_line(scenes, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(CONFIGS / 'upernet_scheme_s_demo.py'), '--data-root', str(tmp_path / 'no')])
    assert 'error: data root not found' in capsys.readouterr().err
    cfg = Config(dict(default_scope='mmaction', model={}))
    with pytest.raises(ValueError, match="expected one of .*'mmseg'.* found 'mmaction'"):
        browse(cfg, str(tmp_path))
    cfg = Config(dict(default_scope='mmseg', model={}))
    with pytest.raises(ValueError, match='no val_dataloader'):
        browse(cfg, str(tmp_path), 'val')
