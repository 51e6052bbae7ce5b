"""SCHEMEformer in the frameworks' own configs."""
from pathlib import Path

import mmdet
import mmseg
import torch
from mmdet.structures import DetDataSample
from mmengine import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData

from tests.test_configs import segmentation_batch

BACKBONE = dict(_delete_=True, type='mmscheme.SCHEMEformer', arch='s12')


def stock(package, name):
    return Path(package.__file__).parent / '.mim' / 'configs' / name


def check_training(model, batch):
    model.init_weights()
    losses = model.train()(**model.data_preprocessor(batch, training=True), mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total.isfinite()
    without = [n for n, p in model.backbone.named_parameters() if p.grad is None]
    assert not without
    with torch.no_grad():
        return model.eval().test_step(batch)


def test_mmseg_upernet_r50():
    cfg = Config.fromfile(stock(mmseg, '_base_/models/upernet_r50.py'))
    cfg.merge_from_dict(dict(model=dict(
        pretrained=None, backbone=dict(BACKBONE), decode_head=dict(in_channels=[64, 128, 320, 512]),
        auxiliary_head=dict(in_channels=320),
        data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 64)))))
    init_default_scope('mmseg')
    torch.manual_seed(0)
    results = check_training(MODELS.build(cfg.model), segmentation_batch(19))
    assert results[0].pred_sem_seg.data.shape == (1, 64, 64)


def test_mmdet_mask_rcnn_r50():
    cfg = Config.fromfile(stock(mmdet, 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'))
    cfg.merge_from_dict(dict(model=dict(backbone=dict(BACKBONE),
                                        neck=dict(in_channels=[64, 128, 320, 512]))))
    init_default_scope('mmdet')
    torch.manual_seed(0)
    from mmdet.structures.mask import BitmapMasks
    samples, height, width = [], 96, 130
    for _ in range(2):
        masks = torch.zeros(2, height, width)
        masks[0, 10:60, 20:90] = masks[1, 30:95, 5:40] = 1
        samples.append(DetDataSample(
            metainfo=dict(img_shape=(height, width), ori_shape=(height, width), img_id=0,
                          scale_factor=(1., 1.), pad_shape=(height, width),
                          batch_input_shape=(height, width)),
            gt_instances=InstanceData(
                bboxes=torch.tensor([[20., 10., 90., 60.], [5., 30., 40., 95.]]),
                labels=torch.tensor([3, 17]),
                masks=BitmapMasks(masks.numpy().astype('uint8'), height, width))))
    batch = dict(inputs=[torch.randint(0, 256, (3, height, width)).to(torch.uint8)] * 2,
                 data_samples=samples)
    results = check_training(MODELS.build(cfg.model), batch)
    assert len(results) == 2 and 'masks' in results[0].pred_instances


