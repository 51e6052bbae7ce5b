"""Parts of the exported graphs beside the frameworks' own."""
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from mmdet.models import DetDataPreprocessor, FCNMaskHead
from mmdet.models.task_modules import DeltaXYWHBBoxCoder
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from mmpretrain.models import ClsDataPreprocessor
from mmseg.models import SegDataPreProcessor
from torch import nn
from torchvision.ops import batched_nms

from mmscheme.deploy.detectors import decode, find_unsupported, paste_masks, suppress
from mmscheme.deploy.export import describe
from mmscheme.deploy.graphs import Graph
from mmscheme.models.loading import build_model
from tests.models import tiny_config

NORMAL = dict(mean=[10., 100., 200.], std=[1., 2., 4.])


@pytest.mark.parametrize('preprocessor', [
    DetDataPreprocessor(**NORMAL), DetDataPreprocessor(**NORMAL, bgr_to_rgb=True),
    SegDataPreProcessor(**NORMAL, size=(5, 7)),
    SegDataPreProcessor(**NORMAL, size=(5, 7), bgr_to_rgb=True),
    ClsDataPreprocessor(**NORMAL), ClsDataPreprocessor(**NORMAL, to_rgb=True),
    ClsDataPreprocessor(), ClsDataPreprocessor(to_rgb=True)],
    ids=lambda p: f'{type(p).__name__}')
def test_colours_are_those_of_the_preprocessor(preprocessor):
    """Its input is read as BGR, that of the graph is RGB."""
    model = nn.Module()
    model.data_preprocessor = preprocessor
    bgr = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    expected = preprocessor.cast_data(dict(inputs=[bgr]))
    if isinstance(preprocessor, SegDataPreProcessor):
        from mmseg.structures import SegDataSample
        expected = dict(inputs=[bgr], data_samples=[SegDataSample()])
    elif isinstance(preprocessor, DetDataPreprocessor):
        from mmdet.structures import DetDataSample
        expected = dict(inputs=[bgr], data_samples=[
            DetDataSample(metainfo=dict(img_shape=(5, 7), pad_shape=(5, 7)))])
    else:
        expected = dict(inputs=bgr[None])
    expected = preprocessor(expected, False)['inputs']
    graph = Graph(model)
    assert torch.allclose(graph.preprocess(bgr.flip(0)[None]), expected)
    # What surrounds a picture that does not fill the graph is the mean colour, 0 to the model.
    cfg = Config(dict(default_scope='mmengine', model=dict()))
    fill = torch.tensor(describe(cfg, graph, {}, (5, 7), False)['fill'], dtype=torch.uint8)
    assert not graph.normalise or not graph.preprocess(fill.view(1, 3, 1, 1)).any()
    if graph.normalise:
        preprocessor.mean *= 0.01  # of images of floats
        graph = Graph(model, 3, torch.float32)
        fill = torch.tensor(describe(cfg, graph, {}, (5, 7), False)['fill'])
        assert graph.preprocess(fill.view(1, 3, 1, 1)).abs().max() < 1e-6


@pytest.mark.parametrize('agnostic', [False, True])
def test_boxes_suppress_those_of_their_class(agnostic):
    torch.manual_seed(0)
    corner = torch.rand(60, 2) * 20
    boxes, scores = torch.cat([corner, corner + 10], 1), torch.rand(60) + 0.1
    labels = torch.randint(0, 3, (60, ))
    kept = batched_nms(boxes, scores, torch.zeros_like(labels) if agnostic else labels, 0.5)
    for most in (60, 5):
        settings = ConfigDict(nms=dict(iou_threshold=0.5, class_agnostic=agnostic),
                              max_per_img=most)
        assert suppress(boxes, scores, labels, settings).equal(kept[:most])
    assert not len(suppress(boxes[:0], scores[:0], labels[:0], settings))


@pytest.mark.parametrize('clip', [True, False])
def test_boxes_are_those_of_the_coder(clip):
    torch.manual_seed(0)
    coder = DeltaXYWHBBoxCoder((0.1, 0.2, 0.3, 0.4), (0.5, 0.6, 3., 4.), clip_border=clip)
    corner = torch.rand(60, 2) * 20
    boxes, deltas = torch.cat([corner, corner + 10], 1), torch.randn(60, 4)
    expected = coder.decode(boxes, deltas, max_shape=(18, 25))
    assert torch.allclose(decode(coder, boxes, deltas, torch.tensor([18, 25])), expected,
                          rtol=1e-6, atol=1e-6)
    assert (expected.max() > 25) != clip


def test_masks_are_pasted_as_by_the_head():
    init_default_scope('mmdet')
    torch.manual_seed(0)
    head = FCNMaskHead(0, in_channels=4, conv_out_channels=4, num_classes=1)
    corner = torch.rand(30, 2) * 50 - 10
    boxes = torch.cat([corner, corner + torch.rand(30, 2) * 40], 1)
    boxes[0, 2:] = boxes[0, :2]  # no area
    boxes[1] = boxes[1] + 1000   # outside
    logits = F.interpolate(torch.randn(30, 1, 7, 7), (28, 28), mode='bilinear') * 5
    found = InstanceData(bboxes=boxes.clone(), labels=torch.zeros(30, dtype=torch.long))
    expected = head.predict_by_feat(
        [logits[2:]], [found[2:]], [dict(ori_shape=(45, 55), scale_factor=(1., 1.))],
        ConfigDict(mask_thr_binary=0.4))[0].masks
    pasted = paste_masks(logits[:, 0].sigmoid(), boxes, (45, 55), 0.4)
    assert pasted[2:].equal(expected) and not pasted[:2].any()
    assert expected.any((1, 2)).sum() > 20


def test_a_detector_without_a_form_is_named():
    model = build_model(tiny_config('mask_rcnn'))
    assert find_unsupported(model) is None
    for part, wrong in (('rpn_head', nn.Module()), ('rpn_head.use_sigmoid_cls', False),
                        ('roi_head.bbox_head.bbox_coder', nn.Module()),
                        ('roi_head.bbox_head.with_avg_pool', True),
                        ('roi_head.mask_roi_extractor.roi_layers', nn.ModuleList([nn.Module()])),
                        ('roi_head.mask_head', nn.Module())):
        changed = deepcopy(model)
        *parents, name = part.split('.')
        owner = changed
        for parent in parents:
            owner = getattr(owner, parent)
        setattr(owner, name, wrong)
        assert find_unsupported(changed), part
    model.roi_head.test_cfg.nms.type = 'soft_nms'
    assert 'nms.type' in find_unsupported(model)
