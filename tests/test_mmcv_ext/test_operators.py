"""The operators against compiled mmcv: kept values everywhere, and itself where it is there."""
import ast
from pathlib import Path

import mmcv.ops
import pytest
import torch
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

from mmscheme.mmcv_ext import operators
from tests.test_mmcv_ext import reference
from tests.test_mmcv_ext.cases import Draw, cases, with_gradients
from tests.test_mmcv_ext.reference import close

CASES = cases()
REFERENCE = reference.read()


def test_every_case_has_a_reference():
    assert list(CASES) == list(REFERENCE)


@pytest.mark.parametrize('name', CASES)
def test_equals_the_kept_values(ours, name):
    close(CASES[name](), REFERENCE[name])


def test_kept_values_are_those_of_compiled_mmcv(compiled):
    for name, case in CASES.items():
        close(case(), REFERENCE[name])


@pytest.mark.skipif(mmcv.__version__ != '2.1.0', reason='other releases ask for other names')
def test_every_name_that_mmcv_asks_for_is_there():
    asked = set()
    for path in Path(mmcv.ops.__file__).parent.glob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, 'attr', '') == 'load_ext':
                asked |= set(ast.literal_eval(node.args[1]))
    assert len(asked) > 100 and all(callable(getattr(operators, name)) for name in asked)
    assert {*operators.PRESENT} < asked and not hasattr(operators, '__path__')


@pytest.mark.parametrize('name, call', [
    ('box_iou_rotated', lambda ops: ops.box_iou_rotated(torch.rand(2, 5), torch.rand(3, 5))),
    ('nms_rotated', lambda ops: ops.nms_rotated(torch.rand(2, 5), torch.rand(2), .5)),
    ('roi_align_rotated_forward', lambda ops: ops.roi_align_rotated(
        torch.rand(1, 2, 3, 3), torch.rand(2, 6), 2, 1.))])
def test_other_operators_name_themselves_in_one_line(ours, name, call):
    with pytest.raises(NotImplementedError, match=f'^{name}: [^\n]*mmcv[^\n]*$'):
        call(ours)


def _in_any_type(ops):
    draw = Draw(21)
    # Whole numbers are the same in each type.
    maps, rois = draw.normal(2, 4, 6, 7), draw.rois(2, 5).round()
    taps = draw.normal(2, 18, 6, 7), draw.uniform(2, 9, 6, 7), draw.normal(4, 4, 3, 3)
    logits, target = draw.normal(6, 4), torch.tensor([0, 1, 2, 3, 4, 4])
    shapes = torch.tensor([[3, 4], [2, 2]])
    yield lambda x: ops.roi_align(x, rois.to(x), 2, .25), maps
    yield lambda x: ops.roi_align(x, rois.to(x), 2, .25, 0, 'max'), maps
    yield lambda x: ops.roi_pool(x, rois.to(x), 2, .25), maps
    yield lambda x, o: ops.deform_roi_pool(x, rois.to(x), o, 2, .25), maps, draw.normal(5, 2, 2, 2)
    yield lambda x, o, w: ops.deform_conv2d(x, o, w, 1, 1), maps, taps[0], taps[2]
    yield (lambda x, o, m, w, b: ops.modulated_deform_conv2d(x, o, m, w, b, 1, 1), maps, *taps,
           draw.normal(4))
    yield lambda x: ops.sigmoid_focal_loss(x, target), logits
    yield lambda x: ops.softmax_focal_loss(x, target.clamp(max=3)), logits
    yield (lambda x, m: ops.carafe(x, m, 3, 2, 2), maps, draw.uniform(2, 18, 12, 14))
    yield ops.PSAMask('collect', (2, 2)), maps
    yield (lambda v, p, a: MultiScaleDeformableAttnFunction.apply(
        v, shapes, torch.tensor([0, 12]), p, a, 64), draw.normal(1, 16, 2, 4),
           draw.uniform(1, 3, 2, 2, 2, 2), draw.uniform(1, 3, 2, 2, 2))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('autocast', [False, True])
def test_other_types_give_results_of_their_type(ours, dtype, autocast):
    """Near those in float32 of the same inputs, also within autocast."""
    for function, *inputs in _in_any_type(ours):
        typed = [x.to(dtype) for x in inputs]
        expected = with_gradients(function, *(x.float() for x in typed))
        with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
            found = with_gradients(function, *typed)
        assert all(x.dtype == dtype for x in found)
        close([x.float() for x in found], expected, 1e-5 if dtype == torch.float64 else 2e-2)


def test_single_precision_is_kept_within_autocast(ours):
    for function, *inputs in _in_any_type(ours):
        expected = with_gradients(function, *(x.clone() for x in inputs))
        with torch.autocast('cpu', torch.bfloat16):
            close(with_gradients(function, *(x.clone() for x in inputs)), expected)


def test_suppression_in_half_precision_is_that_of_the_same_numbers(ours):
    draw = Draw(22)
    boxes, scores = draw.boxes(30, 20).half(), draw.uniform(30).half()
    assert torch.equal(ours.nms(boxes, scores, .4)[1],
                       ours.nms(boxes.float(), scores.float(), .4)[1])
