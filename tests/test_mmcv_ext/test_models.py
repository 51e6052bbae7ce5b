"""Stock detectors on the operators: build, train a step, predict."""
from pathlib import Path

import mmdet
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData

WIDTHS = [64, 128, 320, 512]
SIZE = 64, 96


def load(name, **changes):
    """A config of the installed mmdet with our backbone, and a smaller head."""
    cfg = Config.fromfile(Path(mmdet.__file__).parent / '.mim' / 'configs' / name)
    used = (1, 2, 3) if cfg.model.type in ('RetinaNet', 'DINO') else (0, 1, 2, 3)
    cfg.model.backbone = dict(type='mmscheme.SCHEMEformer', arch='s12', out_indices=used)
    if 'neck' in cfg.model:
        cfg.model.neck.in_channels = [WIDTHS[i] for i in used]
    cfg.merge_from_dict({f'model.{key}': value for key, value in changes.items()})
    return cfg


def batch(images):
    """Random images with two objects each."""
    samples = []
    for _ in range(images):
        sample = DetDataSample(metainfo=dict(img_shape=SIZE, ori_shape=SIZE, scale_factor=(1, 1)))
        boxes = np.array([[10, 10, 60, 50], [40, 30, 90, 60]])
        masks = np.zeros((2, *SIZE), np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes):
            mask[y1:y2, x1:x2] = 1
        sample.gt_instances = InstanceData(
            bboxes=torch.from_numpy(boxes).float(), labels=torch.tensor([1, 3]),
            masks=BitmapMasks(masks, *SIZE))
        sample.gt_sem_seg = PixelData(sem_seg=torch.full((1, *SIZE), 255))
        samples.append(sample)
    return dict(inputs=[torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8)
                        for _ in range(images)], data_samples=samples)


@pytest.mark.parametrize('name, changes', [
    ('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', {}),
    ('retinanet/retinanet_r50_fpn_1x_coco.py', {'neck.start_level': 0}),
    ('mask2former/mask2former_r50_8xb2-lsj-50e_coco.py', {
        'data_preprocessor.batch_augments': None,  # pads to 1024 by 1024
        'panoptic_head.in_channels': WIDTHS, 'panoptic_head.num_queries': 10,
        'panoptic_head.transformer_decoder.num_layers': 2, 'train_cfg.num_points': 128}),
    ('dino/dino-4scale_r50_8xb2-12e_coco.py', {
        'num_queries': 20, 'encoder.num_layers': 2, 'decoder.num_layers': 2}),
    # Deformable convolution, deformable RoI pooling, soft NMS, masked convolution.
    ('dcn/faster-rcnn_r50_fpn_dpool_1x_coco.py', {'test_cfg.rcnn.nms.type': 'soft_nms'}),
    ('vfnet/vfnet_r50_fpn_1x_coco.py', {'neck.start_level': 0}),
    ('guided_anchoring/ga-retinanet_r50-caffe_fpn_1x_coco.py', {})])
def test_a_step_and_a_prediction(ours, name, changes):
    torch.manual_seed(0)
    cfg = load(name, **changes)
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model)
    model.init_weights()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    before = {key: value.clone() for key, value in model.backbone.named_parameters()}
    data = model.data_preprocessor(batch(2), True)
    loss, losses = model.parse_losses(model(**data, mode='loss'))
    assert len(losses) > 2 and all(torch.isfinite(v).all() for v in losses.values())
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    optimizer.step()
    assert any(not torch.equal(p, before[key]) for key, p in model.backbone.named_parameters())
    model.eval()
    with torch.no_grad():
        sample, = model(**model.data_preprocessor(batch(1)), mode='predict')
    found = sample.pred_instances
    assert torch.isfinite(found.scores).all() and found.bboxes.shape == (len(found.scores), 4)
