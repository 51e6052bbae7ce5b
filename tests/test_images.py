"""Images of other channels, types and readers, with every tool."""
import shutil

import cv2
import numpy as np
import pytest
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmengine import Config
from mmengine.registry import TRANSFORMS, init_default_scope

from mmscheme.analysis.random_batch import input_channels
from mmscheme.checks.data import _inspect
from mmscheme.visualization.images import ImageReader, viewable
from tests.bad_inputs import Box
from tests.commands import load_tool


@TRANSFORMS.register_module()
class LoadNpyFile(BaseTransform):
    """A reader of one's own."""

    def transform(self, results):
        image = np.load(results['img_path'])
        return dict(results, img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])


def picture(*shape, high=255):
    return np.random.default_rng(0).integers(0, high, shape).astype(np.uint8)


# --- pictures ---------------------------------------------------------------------------------
def test_pictures_of_any_image():
    image = picture(4, 5, 3)
    assert np.array_equal(viewable(image), image)
    assert np.array_equal(viewable(np.dstack([image, image[..., :1]])), image)
    grey = viewable(image[..., 0])
    assert grey.shape == (4, 5, 3) and (grey == image[..., :1]).all()
    assert np.array_equal(viewable(image[..., :1]), grey)
    assert np.array_equal(viewable(image.astype(np.float32)), image)
    beyond = image.astype(np.float32)
    beyond[0, 0] = (-3, 260, 20)
    assert viewable(beyond)[0, 0].tolist() == [0, 255, 20]
    for values in (image / 255., image.astype(np.uint16) * 100):
        shown = viewable(values)
        assert shown.dtype == np.uint8 and shown.max() == 255 and shown.std() > 50
    assert not viewable(np.full((2, 2, 3), np.nan)).any()


@pytest.mark.parametrize('options, turned', [
    ({}, True), (dict(imdecode_backend='pillow'), True), (dict(color_type='grayscale'), True),
    (dict(color_type='color_ignore_orientation'), False), (dict(color_type='unchanged'), False)])
def test_images_are_read_as_in_training(options, turned, tmp_path):
    """A picture on its side, of which the file notes that it should be turned."""
    path = str(tmp_path / 'a.jpg')
    from PIL import Image
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(20, 30, 3)).save(path, exif=exif)
    steps = [dict(type='LoadImageFromFile', **options), dict(type='NoSuch')][:1]
    read = ImageReader(steps)
    expected = LoadImageFromFile(**options)(dict(img_path=path))['img']
    assert np.array_equal(read.read(dict(img_path=path)), expected)
    size = (20, 30) if turned else (30, 20)
    assert read(path).shape == (*size[::-1], 3)
    assert _inspect(path, read, dict(img_path=path)) == (None, size, (30, 20) if turned else None)


def test_a_reader_of_one_s_own_is_the_one_to_ask(tmp_path):
    good, bad = str(tmp_path / 'a.npy'), str(tmp_path / 'b.npy')
    np.save(good, picture(6, 9, 4))
    (tmp_path / 'b.npy').write_bytes(b'no')
    read = ImageReader([dict(type='LoadNpyFile'), dict(type='LoadAnnotations')])
    assert _inspect(good, read, dict(img_path=good)) [:2] == (None, (9, 6))
    assert _inspect(bad, read, dict(img_path=bad)).problem.startswith('its decoder fails')
    assert _inspect(good, ImageReader([dict(type='LoadImageFromFile')]),
                    dict(img_path=good)).problem == 'not an image'


@pytest.mark.parametrize('model, channels', [
    (dict(backbone=dict(type='mmscheme.SCHEMEformer')), 3),
    (dict(backbone=dict(type='mmscheme.SCHEMEformer', in_channels=4)), 4),
    (dict(backbone=dict(type='mmscheme.SCHEMEWrapper', backbone=dict(
        type='mmpretrain.TIMMBackbone', in_channels=1))), 1),
    (dict(backbone=dict(type='mmpretrain.LeNet5'), data_preprocessor=dict(mean=[33.])), 1),
    (dict(backbone=dict(type='mmdet.CSPDarknet')), 3)])
def test_channels_of_a_model(model, channels):
    init_default_scope('mmengine')
    assert input_channels(Config(dict(model=model))) == channels


# --- every tool -------------------------------------------------------------------------------
_OWN = '''
steps = {loader}
for pipeline in (_base_.train_pipeline, _base_.test_pipeline):
    pipeline[0] = steps
_base_.train_pipeline.pop(5)  # distorts the colours of three channels
model = dict(
    backbone=dict(in_channels={channels}),
    data_preprocessor=dict(mean=[90.] * {channels}, std=[60.] * {channels}, bgr_to_rgb=False))
suffix = dict(dataset=dict(img_suffix='{suffix}', pipeline=_base_.train_pipeline))
train_dataloader = suffix
val_dataloader = dict(dataset=dict(img_suffix='{suffix}', pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader
'''


@pytest.mark.slow
@pytest.mark.parametrize('kind, channels, suffix, loader', [
    ('four channels', 4, '.npy', "dict(type='LoadNpyFile')"),
    ('grey', 1, '.jpg', "dict(type='LoadImageFromFile', color_type='grayscale')")])
def test_every_tool_with_a_segmenter(kind, channels, suffix, loader, scenes, tmp_path, capsys):
    """Train, check, test with pictures and a report, count, browse, fold, predict and export."""
    box = Box(tmp_path, scenes)
    if suffix == '.npy':
        for path in (box.scenes / 'images').glob('*/*.jpg'):
            image = cv2.imread(str(path))
            np.save(path.with_suffix('.npy'), np.dstack([image, image[..., 0]]))
            path.unlink()
    extra = _OWN.format(loader=loader, channels=channels, suffix=suffix)

    def tool(name, *words):
        load_tool(name).main([str(w) for w in words])

    config, data = box.config('seg', extra), ('--data-root', box.scenes)
    tool('misc/check_config', config, *data, '--pictures', tmp_path / 'seen')
    assert '0 errors' in capsys.readouterr().out
    tool('train', config, *data, '--work-dir', tmp_path / 'w')
    checkpoint = tmp_path / 'w' / 'iter_1.pth'
    tool('test', config, checkpoint, *data, '--work-dir', tmp_path / 't', '--show-dir',
         tmp_path / 'shown', '--report', tmp_path / 'report')
    assert len(list((tmp_path / 'shown').iterdir())) == 4
    assert (tmp_path / 'report' / 'report.html').stat().st_size > 20_000
    tool('analysis_tools/get_flops', config)
    tool('analysis_tools/browse_dataset', config, *data, '--out', tmp_path / 'browsed',
         '--number', 2)
    assert len(list((tmp_path / 'browsed').iterdir())) == 2
    tool('deploy/fold', config, checkpoint, tmp_path / 'folded.pth')
    inputs = sorted((box.scenes / 'images' / 'validation').iterdir())
    tool('predict', config, checkpoint, inputs[0].parent, '--out', tmp_path / 'predicted')
    assert len(list((tmp_path / 'predicted').iterdir())) == 4
    tool('deploy/export', config, checkpoint, '--out', tmp_path / 'a.pt', '--format',
         'torchscript', '--shape', 128, 160)
    tool('deploy/predict', tmp_path / 'a.pt', inputs[0].parent, '--out', tmp_path / 'exported')
    for path in (tmp_path / 'predicted').iterdir():
        one, other = (cv2.imread(str(p)) for p in (path, tmp_path / 'exported' / path.name))
        assert one.shape == other.shape == (64, 80, 3) and (one != other).mean() < 0.01


@pytest.mark.slow
def test_a_grey_detector_and_classifier(scenes, tmp_path):
    """A step, a validation and the pictures of a rehearsal."""
    from tests.test_checks.checking import check
    box = Box(tmp_path, scenes)
    for task in ('det', 'cls'):
        loader = "dict(type='LoadImageFromFile', color_type='grayscale')"
        extra = (f'for pipeline in (_base_.train_pipeline, _base_.test_pipeline):\n'
                 f'    pipeline[0] = {loader}\n'
                 'train_dataloader = dict(dataset=dict(pipeline=_base_.train_pipeline))\n'
                 'val_dataloader = dict(dataset=dict(pipeline=_base_.test_pipeline))\n'
                 'test_dataloader = val_dataloader\n'
                 'model = dict(backbone=dict(in_channels=1), data_preprocessor=dict('
                 'mean=[90.], std=[60.]' + (', bgr_to_rgb=False' if task == 'det' else
                                           ', to_rgb=False') + '))\n')
        assert check(box, task, extra).errors == [], task
        shutil.rmtree(box.scenes)
