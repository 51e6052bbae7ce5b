"""Detection by the command lines, and single images through the frameworks' inferencers."""
import json
import pickle
import re
import sys

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmscheme.datasets.scenes import THINGS, write_scenes
from tests.utils import REPOSITORY, readme_names, run

DEMO = 'configs/mask_rcnn_scheme_s_demo.py'
SMALL = ['train_dataloader.num_workers=0', 'val_dataloader.num_workers=0',
         'test_dataloader.num_workers=0', 'train_dataloader.batch_size=3',
         'train_cfg.max_epochs=1', 'default_hooks.logger.interval=1',
         'model.train_cfg.rpn_proposal.max_per_img=20', 'model.test_cfg.rpn.max_per_img=20',
         'model.roi_head.bbox_head.fc_out_channels=16']


@pytest.fixture(scope='module')
def objects(tmp_path_factory):
    """Scenes with what COCO has: crowds, an image without objects, a grey one, no `info`."""
    root = write_scenes(tmp_path_factory.mktemp('coco') / 'scenes', 6, 3, (64, 80), seed=3)
    for split in ('train', 'val'):
        path = root / 'annotations' / f'instances_{split}2017.json'
        content = json.loads(path.read_text())
        del content['info']
        empty, grey, crowded = (i['id'] for i in content['images'][:3])
        content['annotations'] = [a for a in content['annotations'] if a['image_id'] != empty]
        crowd = next(a for a in content['annotations'] if a['image_id'] == crowded)
        mask = np.zeros((64, 80), np.uint8, order='F')
        mask[8:40, 8:60] = 1
        runs = np.diff(np.flatnonzero(np.diff(mask.ravel('F'), prepend=2, append=2))).tolist()
        crowd.update(iscrowd=1, bbox=[8, 8, 52, 32], area=int(mask.sum()),
                     segmentation=dict(size=[64, 80], counts=runs))
        path.write_text(json.dumps(content))
        name = root / f'{split}2017' / f'scene_{grey - 1:05d}.jpg'
        image = cv2.imread(str(name), cv2.IMREAD_GRAYSCALE)
        name.unlink()  # it shares its content with ADE20K's layout
        cv2.imwrite(str(name), image)
    return root


@pytest.fixture(scope='module')
def trained(objects, tmp_path_factory):
    """Work folder of a training with every image, those without objects too."""
    work_dir = tmp_path_factory.mktemp('trained')
    log = run(sys.executable, 'tools/train.py', DEMO, '--data-root', objects, '--work-dir',
              work_dir, '--cfg-options', *SMALL,
              'train_dataloader.dataset.filter_cfg.filter_empty_gt=False')
    assert 'Epoch(train) [1][2/2]' in log and 'nan' not in log.lower()
    assert re.search(r'coco/segm_mAP: -?[\d.]+', log)
    return work_dir


def test_crowds_are_read_as_crowds(objects):
    coco = COCO(objects / 'annotations' / 'instances_train2017.json')
    crowd, = coco.loadAnns(coco.getAnnIds(iscrowd=True))
    assert coco_mask.toBbox(coco.annToRLE(crowd)).tolist() == [8, 8, 52, 32]


@pytest.mark.slow
def test_test_reports_draws_and_stores(trained, objects, tmp_path):
    log = run(sys.executable, 'tools/test.py', DEMO, trained / 'epoch_1.pth', '--data-root',
              objects, '--work-dir', tmp_path / 'w', '--show-dir', tmp_path / 'pictures', '--out',
              tmp_path / 'predictions.pkl', '--cfg-options', *SMALL,
              'test_evaluator.classwise=True', 'model.test_cfg.rcnn.score_thr=0.0')
    metrics = json.loads(next((tmp_path / 'w').glob('*/*.json')).read_text())
    for kind in ('bbox', 'segm'):
        assert f'coco/{kind}_mAP: {metrics[f"coco/{kind}_mAP"]:.4f}' in log
    assert all(f'| {name}' in log for name in THINGS)
    pictures = sorted((tmp_path / 'pictures').iterdir())
    assert [p.stem for p in pictures] == [f'scene_{i:05d}' for i in range(3)]
    assert cv2.imread(str(pictures[0])).shape[1] >= 2 * 80  # the truth beside the prediction
    # The stored predictions are those that were scored, by pycocotools alone.
    with open(tmp_path / 'predictions.pkl', 'rb') as f:
        predictions = pickle.load(f)
    truth = COCO(objects / 'annotations' / 'instances_val2017.json')
    truth.dataset['info'] = {}
    found = []
    for prediction in predictions:
        instances = prediction['pred_instances']
        for box, score, label, mask in zip(*(instances[k] for k in (
                'bboxes', 'scores', 'labels', 'masks'))):
            x1, y1, x2, y2 = box.tolist()
            found.append(dict(image_id=prediction['img_id'], bbox=[x1, y1, x2 - x1, y2 - y1],
                              score=float(score), segmentation=mask,
                              category_id=1 + list(THINGS.values())[int(label)]))
    assert len(found) > 10
    for kind in ('bbox', 'segm'):
        evaluation = COCOeval(truth, truth.loadRes([dict(f) for f in found]), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert metrics[f'coco/{kind}_mAP'] == pytest.approx(evaluation.stats[0], abs=1e-3)


@pytest.mark.slow
def test_augmentation_where_mmdet_has_it(trained, objects, tmp_path):
    message = run(sys.executable, 'tools/test.py', DEMO, trained / 'epoch_1.pth', '--data-root',
                  objects, '--tta', '--work-dir', tmp_path, fails=True)
    assert message.strip().splitlines()[-1] == 'error: --tta needs tta_model in the config'
    config = tmp_path / 'retinanet.py'
    config.write_text(f"_base_ = '{REPOSITORY}/configs/retinanet_scheme_s_coco.py'\n"
                      "scenes = dict(type='mmscheme.ScenesInstanceDataset')\n"
                      'train_dataloader = dict(dataset=scenes)\n'
                      'val_dataloader = dict(dataset=scenes)\n'
                      'test_dataloader = val_dataloader\n'
                      'model = dict(bbox_head=dict(num_classes=6))\n'
                      'tta_pipeline = _base_.tta_pipeline\n'
                      "tta_pipeline[1]['transforms'][0] = [\n"
                      "    dict(type='Resize', scale=s, keep_ratio=True)\n"
                      '    for s in ((80, 64), (120, 96))]\n')
    options = [o for o in SMALL if 'model' not in o] + [
        'train_dataloader.dataset.pipeline.2.scale=(80,64)',
        'val_dataloader.dataset.pipeline.1.scale=(80,64)', 'model.test_cfg.score_thr=0.0']
    run(sys.executable, 'tools/train.py', config, '--data-root', objects, '--work-dir', tmp_path,
        '--cfg-options', *options)
    log = run(sys.executable, 'tools/test.py', config, tmp_path / 'epoch_1.pth', '--data-root',
              objects, '--work-dir', tmp_path, '--tta', '--cfg-options', *options)
    assert re.search(r'coco/bbox_mAP: -?[\d.]+', log)


@pytest.mark.slow
def test_out_must_be_a_pickle(trained, objects, tmp_path):
    message = run(sys.executable, 'tools/test.py', DEMO, trained / 'epoch_1.pth', '--data-root',
                  objects, '--out', tmp_path / 'masks', '--work-dir', tmp_path, fails=True)
    assert 'error: --out: expected a file *.pkl' in message


@pytest.mark.slow
def test_readme_inferencer(trained, objects, tmp_path):
    config, image = tmp_path / 'mine.py', objects / 'val2017' / 'scene_00002.jpg'
    config.write_text(f"_base_ = '{REPOSITORY / DEMO}'\n"
                      'model = dict(roi_head=dict(bbox_head=dict(fc_out_channels=16)))\n')
    names = readme_names('detection inferencer', {
        'configs/mask_rcnn_scheme_s_demo.py': config,
        'image.jpg': image,
        'work_dirs/mask_rcnn_scheme_s_demo/epoch_8.pth': trained / 'epoch_1.pth',
        'pictures': tmp_path,
    })
    assert names['detect'].visualizer.dataset_meta['classes'] == tuple(THINGS)
    found = names['found']
    assert set(found) >= {'bboxes', 'labels', 'scores', 'masks'}
    assert torch.tensor(found['scores']).isfinite().all()
    assert cv2.imread(str(tmp_path / 'vis' / image.name)).shape == (64, 80, 3)
