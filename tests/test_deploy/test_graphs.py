"""Parts of the exported graphs beside the frameworks' own."""
from types import SimpleNamespace

import pytest
import torch
from mmdet.models import DetDataPreprocessor
from mmpretrain.models import ClsDataPreprocessor
from mmseg.models import SegDataPreProcessor
from torch import nn
from torchvision.ops import batched_nms

from mmscheme.deploy.graphs import DetectorGraph, Graph

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
    assert torch.allclose(Graph(model).preprocess(bgr.flip(0)[None]), expected)


@pytest.mark.parametrize('agnostic', [False, True])
def test_boxes_suppress_those_of_their_class(agnostic):
    torch.manual_seed(0)
    corner = torch.rand(60, 2) * 20
    boxes, scores = torch.cat([corner, corner + 10], 1), torch.rand(60) + 0.1
    labels = torch.randint(0, 3, (60, ))
    kept = batched_nms(boxes, scores, torch.zeros_like(labels) if agnostic else labels, 0.5)
    settings = dict(min_size=-1, agnostic=agnostic, iou=0.5, keep=60)
    found = DetectorGraph._select(SimpleNamespace(cfg=settings), boxes, scores, labels, 0.)
    number = len(kept)
    for values, all_of_them in zip(found, (boxes, scores, labels)):
        assert values[:number].equal(all_of_them[kept])
    assert (found[2][number:] == -1).all() and not found[1][number:].any()
