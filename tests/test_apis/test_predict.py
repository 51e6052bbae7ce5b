"""Pictures and labelled videos of images, folders and videos."""
import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import LoadImageFromFile

from mmscheme.apis.config import load_config
from mmscheme.apis.inference import load_predictor, predict
from mmscheme.datasets.scenes import PALETTE
from mmscheme.models.loading import build_model
from mmscheme.utils.image_jobs import find_jobs
from tests.commands import load_tool
from tests.models import tiny_checkpoint
from tests.utils import REPOSITORY

main = load_tool('predict').main
exported_main = load_tool('deploy/predict').main


@pytest.fixture(scope='module')
def segmenter(tmp_path_factory):
    """Config and checkpoint of a small segmenter that predicts one class everywhere."""
    folder = tmp_path_factory.mktemp('segmenter')
    config, checkpoint, cfg = tiny_checkpoint('upernet', folder)
    model = build_model(cfg)
    model.load_state_dict(torch.load(checkpoint, weights_only=True)['state_dict'])
    model.decode_head.conv_seg.weight.data.zero_()
    model.decode_head.conv_seg.bias.data = torch.eye(9)[5]
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    return str(config), checkpoint


def write_video(path, frames, size=(80, 64)):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'mp4v'), 10., size)
    for i in range(frames):
        writer.write(np.full((size[1], size[0], 3), 20 * i, np.uint8))
    writer.release()


def drawn(image, found):
    """What is found is the picture."""
    return found


def test_images_folders_and_videos(segmenter, scenes, tmp_path, capsys):
    write_video(tmp_path / 'clip.mp4', 5)
    (tmp_path / 'in' / 'sub').mkdir(parents=True)
    for i, name in enumerate(('a.png', 'sub/a.png')):
        cv2.imwrite(str(tmp_path / 'in' / name), np.full((50, 60, 3), 100 * i, np.uint8))
    (tmp_path / 'in' / 'notes.txt').write_text('not an image')
    image = scenes / 'images' / 'validation' / 'scene_00000.jpg'
    out = tmp_path / 'out'
    main([*segmenter, str(image), str(tmp_path / 'in'), str(tmp_path / 'clip.mp4'), '--out',
          str(out), '--opacity', '1'])
    shown = capsys.readouterr().out
    assert '4 of 4 files' in shown and 'ETA' in shown and '8/8' in shown
    assert sorted(str(p.relative_to(out)) for p in out.rglob('*') if p.is_file()) == [
        'a.png', 'clip.mp4', 'scene_00000.jpg', 'sub/a.png']
    picture = cv2.imread(str(out / 'a.png'))
    assert picture.shape == (50, 60, 3)
    # The class that is predicted, in its colour, RGB in the palette and BGR in the file.
    assert picture[-1, -1].tolist() == list(PALETTE[5])[::-1]
    video = cv2.VideoCapture(str(out / 'clip.mp4'))
    frames = []
    while True:
        valid, frame = video.read()
        if not valid:
            break
        frames.append(frame)
    assert len(frames) == 5 and frames[0].shape == (64, 80, 3)
    assert video.get(cv2.CAP_PROP_FPS) == 10
    assert np.abs(frames[0][-4, -4].astype(int) - PALETTE[5][::-1]).max() < 12


@pytest.mark.parametrize('task', ['retinanet', 'cls'])
def test_other_tasks(task, scenes, tmp_path):
    config, checkpoint, _ = tiny_checkpoint(task, tmp_path)
    image = scenes / 'val2017' / 'scene_00000.jpg'
    scale = ['--cfg-options', 'test_dataloader.dataset.pipeline.1.scale=(160,128)']
    main([str(config), checkpoint, str(image), '--out', str(tmp_path / 'out'), '--score-thr',
          '0.05', *scale])
    picture, plain = cv2.imread(str(tmp_path / 'out' / image.name)), cv2.imread(str(image))
    assert picture.shape == plain.shape
    assert (np.abs(picture.astype(int) - plain).max(-1) > 30).mean() > 0.01


@pytest.mark.parametrize('kind', [LoadImageFromFile, 'mmcv.transforms.LoadImageFromFile'])
def test_steps_of_the_pipeline_by_class_or_module(segmenter, scenes, kind):
    cfg = load_config(segmenter[0])
    cfg.test_dataloader.dataset.pipeline[0].type = kind
    sample = load_predictor(cfg, segmenter[1], 'cpu').find(np.zeros((50, 60, 3), np.uint8))
    assert sample.pred_sem_seg.data.unique().tolist() == [5]
    assert cfg.test_dataloader.dataset.pipeline[0].type == kind


def test_what_cannot_be_read_does_not_stop_the_rest(segmenter, scenes, tmp_path, capsys):
    (tmp_path / 'broken.jpg').write_text('x')
    (tmp_path / 'empty.mp4').write_text('')
    write_video(tmp_path / 'zero.mp4', 0)
    image = scenes / 'images' / 'validation' / 'scene_00000.jpg'
    with pytest.raises(SystemExit) as status:
        main([*segmenter, str(tmp_path), str(image), '--out', str(tmp_path / 'out')])
    shown = capsys.readouterr()
    assert status.value.code == 2 and '1 of 4 files' in shown.out
    errors = [line for line in shown.err.splitlines() if line.startswith('error: ')]
    assert [e.split('/')[0] for e in errors] == [
        'error: not a readable image: ', 'error: no frames in the video: ',
        'error: no frames in the video: ']
    assert [p.name for p in (tmp_path / 'out').iterdir()] == ['scene_00000.jpg']


@pytest.mark.slow
def test_an_image_that_the_model_refuses_does_not_stop_the_rest(segmenter, tmp_path, capsys):
    (tmp_path / 'in').mkdir()
    for name, size in (('a.jpg', (60, 50)), ('b.png', (1, 100)), ('c.jpg', (60, 50))):
        cv2.imwrite(str(tmp_path / 'in' / name), np.full((*size, 3), 90, np.uint8))
    with pytest.raises(SystemExit) as status:
        main([*segmenter, str(tmp_path / 'in'), '--out', str(tmp_path / 'out')])
    shown = capsys.readouterr()
    assert status.value.code == 2 and '\n2 of 3 files' in shown.out
    error, = (line for line in shown.err.splitlines() if line.startswith('error: '))
    assert error.startswith(f'error: {tmp_path}/in/b.png: ') and '3 pixels a side' in error
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['a.jpg', 'c.jpg']


@pytest.mark.parametrize('error', [ValueError('too dark'), RuntimeError('too\ndark'),
                                   cv2.error('too dark')])
def test_frames_and_images_that_fail_are_named(error, tmp_path, capsys):
    write_video(tmp_path / 'a.mp4', 3)
    cv2.imwrite(str(tmp_path / 'b.png'), np.zeros((5, 5, 3), np.uint8))
    cv2.imwrite(str(tmp_path / 'c.png'), np.full((5, 5, 3), 9, np.uint8))

    def picture(image):
        if image.max() < 9:
            raise error
        return image

    (tmp_path / 'd.GIF').touch()
    (tmp_path / 'notes.txt').touch()
    jobs = find_jobs([str(tmp_path)], str(tmp_path / 'out'))
    assert 'd.GIF' in capsys.readouterr().out
    assert predict(picture, jobs, drawn) == [f'{tmp_path}/{n}: too dark'
                                             for n in ('a.mp4', 'b.png')]
    assert [p.name for p in (tmp_path / 'out').iterdir()] == ['c.png']
    assert 'Traceback' not in capsys.readouterr().err
    predict(picture, jobs, drawn, debug=True)
    assert capsys.readouterr().err.count('Traceback') == 2


def test_the_bar_ends_its_line_before_an_error(tmp_path, capsys):
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((5, 5, 3), np.uint8))

    def picture(image):
        raise OSError('disk full')

    with pytest.raises(OSError):
        predict(picture, find_jobs([str(tmp_path)], str(tmp_path / 'out')), drawn)
    assert capsys.readouterr().out.endswith('\n')


def test_errors_come_first(segmenter, scenes, tmp_path, capsys):
    image = scenes / 'images' / 'validation' / 'scene_00000.jpg'
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'x.txt').write_text('x')
    other = str(REPOSITORY / 'configs' / 'upernet_scheme_s_demo.py')
    for arguments, message in (
            ((*segmenter, tmp_path / 'no.jpg'), 'input not found'),
            ((*segmenter, tmp_path / 'empty'), 'no images or videos in'),
            ((*segmenter, tmp_path / 'x.txt'), 'expected an image'),
            ((*segmenter, image, '--out', image.parent), 'would replace it'),
            ((segmenter[0], tmp_path / 'no.pth', image), 'checkpoint not found'),
            ((other, segmenter[1], image), 'not a checkpoint of this config')):
        arguments = [str(a) for a in arguments]
        if '--out' not in arguments:
            arguments += ['--out', str(tmp_path / 'out')]
        with pytest.raises(SystemExit) as status:
            main(arguments)
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert status.value.code == 2 and error.startswith('error: ') and message in error
    assert not (tmp_path / 'out').exists()


def test_two_files_of_one_name_get_two_pictures(tmp_path):
    for folder in ('a', 'b'):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / 'x.png').write_text('')
    jobs = find_jobs([str(tmp_path / 'a' / 'x.png'), str(tmp_path / 'b')], 'out')
    assert [str(j.target) for j in jobs] == ['out/x.png', 'out/x_2.png']
    (tmp_path / 'b' / 'x.jpg').write_text('')
    jobs = find_jobs([str(tmp_path / 'a' / 'x.png'), str(tmp_path / 'b')], None, 'masks')
    assert [str(j.mask) for j in jobs] == ['masks/x.png', 'masks/x_2.png', 'masks/x_3.png']
    assert {j.target for j in jobs} == {None}


def test_no_input_is_replaced_by_the_picture_of_another(tmp_path):
    for folder in ('a', 'b'):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / 'x.jpg').write_text('')
    (tmp_path / 'link').symlink_to(tmp_path / 'b')
    files = [str(tmp_path / folder / 'x.jpg') for folder in ('a', 'b')]
    for inputs in (files, files[::-1], [files[0], str(tmp_path / 'b')]):
        for out in ('b', 'link'):
            with pytest.raises(ValueError, match='/b/x.jpg: .*picture.* would replace it; choose'):
                find_jobs(inputs, str(tmp_path / out))
    with pytest.raises(ValueError, match=f'the picture of {files[0]} would replace it'):
        find_jobs(files, str(tmp_path / 'b'))


def test_pictures_of_an_earlier_run_are_no_inputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('in/x.jpg', 'in/out/x.jpg', 'in/out/sub/y.jpg'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('')
    (tmp_path / 'link').symlink_to(tmp_path / 'in')
    for folder, out in (('in', 'in/out'), (tmp_path / 'in', 'in/out'), ('link', 'in/out')):
        job, = find_jobs([str(folder)], out)
        assert (job.source.name, str(job.target)) == ('x.jpg', 'in/out/x.jpg')
    # A folder that is in the one to write is what was asked for.
    assert [str(j.target) for j in find_jobs(['in/out'], 'in')] == ['in/sub/y.jpg', 'in/x.jpg']


@pytest.mark.parametrize('tool', [main, exported_main])
def test_opacity_is_a_fraction(tool, capsys):
    with pytest.raises(SystemExit) as status:
        tool(['model', 'weights', 'image', '--opacity', '2'][tool is exported_main:])
    assert status.value.code == 2
    assert capsys.readouterr().err.strip().endswith(
        'error: argument --opacity: expected a number in [0, 1], found 2')
