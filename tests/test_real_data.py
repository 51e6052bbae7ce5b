"""The same commands on real images, where MMSCHEME_REAL_DATA names a folder of them."""
import json
import re
import sys

import cv2
import numpy as np
import pytest

from tests.utils import SHORT, run

FLAGSHIP = 'configs/upernet_scheme_s_ade20k.py'
OPTIONS = [o for o in SHORT if not re.search('max_iters|interval|batch', o)]


def short_run(root, work_dir, *arguments, iterations=24):
    return run(sys.executable, 'tools/train.py', FLAGSHIP, '--data-root', root, '--work-dir',
               work_dir, *arguments, '--cfg-options', *OPTIONS,
               f'train_cfg.max_iters={iterations}', 'default_hooks.checkpoint.interval=8',
               'default_hooks.logger.interval=1', 'model.decode_head.channels=32',
               'model.auxiliary_head.channels=32', 'optim_wrapper.optimizer.lr=2e-3',
               'param_scheduler.0.end=2', 'param_scheduler.1.begin=2',
               f'param_scheduler.1.end={iterations}', 'train_dataloader.batch_size=4',
               'randomness.seed=0')


@pytest.fixture(scope='module')
def camvid(real_data, tmp_path_factory):
    """Root of the data, work folder and log of a short training."""
    work_dir = tmp_path_factory.mktemp('camvid')
    root = real_data / 'camvid_as_ade20k'
    return root, work_dir, short_run(root, work_dir)


@pytest.mark.slow
def test_training_lowers_the_loss(camvid):
    losses = [float(v) for v in re.findall(r' loss: ([\d.]+)', camvid[2])]
    assert len(losses) == 24 and np.mean(losses[-4:]) < 0.95 * np.mean(losses[:4])


@pytest.mark.slow
def test_resume_goes_on(camvid):
    root, work_dir, _ = camvid
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'iter_16.pth'))
    log = short_run(root, work_dir, '--resume')
    assert 'resumed epoch: 0, iter: 16' in log
    assert [int(n) for n in re.findall(r'Iter\(train\) \[ *(\d+)/24\]', log)] == list(
        range(17, 25))


@pytest.mark.slow
@pytest.mark.parametrize('name, images', [('camvid_as_ade20k', 101), ('ade20k_sample', 3)])
def test_testing_real_images(camvid, real_data, tmp_path, name, images):
    _, work_dir, _ = camvid
    log = run(sys.executable, 'tools/test.py', FLAGSHIP, work_dir / 'iter_24.pth', '--data-root',
              real_data / name, '--work-dir', tmp_path / 'w', '--show-dir', tmp_path / 'pictures',
              '--cfg-options', *OPTIONS, 'model.decode_head.channels=32',
              'model.auxiliary_head.channels=32')
    metrics = json.loads(next((tmp_path / 'w').glob('*/*.json')).read_text())
    assert f'mIoU: {metrics["mIoU"]:.4f}' in log and metrics['aAcc'] > 0
    pictures = list((tmp_path / 'pictures').iterdir())
    assert len(pictures) == images
    shape = cv2.imread(str(pictures[0])).shape
    image = cv2.imread(str(next((real_data / name).glob(f'images/*/{pictures[0].stem}.jpg'))))
    assert shape[1] == 3 * image.shape[1] * max(1, -(-256 // image.shape[0]))


@pytest.mark.slow
def test_detection_on_coco(real_data, tmp_path):
    """Real annotations, crowds among them, with the shipped recipe at a small scale."""
    options = ['train_dataloader.num_workers=0', 'val_dataloader.num_workers=0',
               'test_dataloader.num_workers=0', 'train_dataloader.batch_size=4',
               'train_dataloader.dataset.pipeline.2.scale=(160,160)',
               'val_dataloader.dataset.pipeline.1.scale=(160,160)',
               'test_dataloader.dataset.pipeline.1.scale=(160,160)', 'train_cfg.max_epochs=1',
               'model.train_cfg.rpn_proposal.max_per_img=50', 'model.test_cfg.rpn.max_per_img=50',
               'model.train_cfg.rcnn.sampler.num=32', 'randomness.seed=0',
               'default_hooks.logger.interval=1', 'model.test_cfg.rcnn.score_thr=0.001',
               'model.test_cfg.rcnn.max_per_img=20', 'model.roi_head.bbox_head.fc_out_channels=128',
               'model.roi_head.mask_head.conv_out_channels=32',
               'optim_wrapper.optimizer.lr=1e-3', 'param_scheduler.0.end=5']
    log = run(sys.executable, 'tools/train.py', 'configs/mask_rcnn_scheme_s_coco.py',
              '--data-root', real_data / 'coco_tiny', '--work-dir', tmp_path, '--cfg-options',
              *options)
    losses = [float(v) for v in re.findall(r' loss: ([\d.]+)', log)]
    assert len(losses) == 20 and np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    metrics, = (json.loads(line) for line in next(
        tmp_path.glob('*/vis_data/scalars.json')).read_text().splitlines() if 'segm' in line)
    assert metrics['coco/bbox_mAP_50'] >= 0 and metrics['coco/segm_mAP_50'] >= 0
