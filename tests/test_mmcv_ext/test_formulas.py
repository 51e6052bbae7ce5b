"""Operators without a CPU form in compiled mmcv, against their formulas as loops in float64."""
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from mmcv.ops.multi_scale_deform_attn import (
    MultiScaleDeformableAttnFunction,
    multi_scale_deformable_attn_pytorch,
)
from mmcv.ops.sync_bn import SyncBatchNormFunction

from tests.test_mmcv_ext.cases import Draw, roi_inputs
from tests.test_mmcv_ext.reference import close

TINY = torch.finfo(torch.float32).tiny


def gradients(function, *inputs):
    """Output in float64, and the gradients for the weights that close_to_formula uses."""
    inputs = [x.double().requires_grad_() for x in inputs]
    output = function(*inputs)
    return [output.detach(), *torch.autograd.grad(output, inputs, weights_like(output))]


def weights_like(output):
    return Draw(output.numel()).normal(*output.shape).to(output)


def close_to_formula(operator, formula, *inputs):
    """The operator in float32 has the values and gradients of the formula."""
    mine = [x.clone().requires_grad_() for x in inputs]
    output = operator(*mine)
    # mmcv has no gradient of an offset without elements.
    grads = torch.autograd.grad(output, mine, weights_like(output), allow_unused=True)
    grads = [torch.zeros_like(x) if g is None and not x.numel() else g
             for x, g in zip(mine, grads)]
    close([output.detach(), *grads], [x.float() for x in gradients(formula, *inputs)])


def roi_pool(maps, rois, bins, scale):
    output = maps.new_zeros(len(rois), maps.shape[1], *bins) + 0 * maps.sum()
    for n, (image, x1, y1, x2, y2) in enumerate(rois.double().tolist()):
        left, top, right, bottom = x1 * scale, y1 * scale, (x2 + 1) * scale, (y2 + 1) * scale
        if right <= left or bottom <= top:
            continue
        height, width = (bottom - top) / bins[0], (right - left) / bins[1]
        for i, j in itertools.product(*map(range, bins)):
            rows = slice(*(min(max(e, 0), maps.shape[2]) for e in (
                math.floor(i * height + top), math.ceil((i + 1) * height + top))))
            columns = slice(*(min(max(e, 0), maps.shape[3]) for e in (
                math.floor(j * width + left), math.ceil((j + 1) * width + left))))
            pixels = maps[int(image), :, rows, columns]
            if pixels.numel():
                output[n, :, i, j] = pixels.amax((1, 2))
    return output


@pytest.mark.parametrize('name, maps, rois', roi_inputs())
@pytest.mark.parametrize('bins, scale', [((2, 3), .25), ((1, 1), .5), ((7, 7), .25)])
def test_roi_pool(ours, name, maps, rois, bins, scale):
    close_to_formula(lambda x: ours.roi_pool(x, rois, bins, scale),
                     lambda x: roi_pool(x, rois, bins, scale), maps)


def test_roi_pool_takes_the_first_of_equal_pixels_and_nothing_of_inverted_rois(ours):
    maps = torch.ones(1, 1, 4, 4, requires_grad=True)
    rois = torch.tensor([[0, 0, 0, 3, 3.], [0, 3, 3, 0, 0]])
    output = ours.roi_pool(maps, rois, 1, 1.)
    output.sum().backward()
    assert output.flatten().tolist() == [1, 0]
    assert maps.grad.nonzero().tolist() == [[0, 0, 0, 0]] and maps.grad.sum() == 1


def bilinear(plane, y, x):
    """A sample of RoIAlign: the border's value up to a pixel outside, zero beyond."""
    height, width = plane.shape[-2:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return plane[..., 0, 0] * 0
    y, x = (v.clamp(0, size - 1) if torch.is_tensor(v) else min(max(v, 0), size - 1)
            for v, size in ((y, height), (x, width)))
    top, left = int(y), int(x)
    below, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, across = y - top, x - left
    return ((1 - down) * ((1 - across) * plane[..., top, left] + across * plane[..., top, right]) +
            down * ((1 - across) * plane[..., below, left] + across * plane[..., below, right]))


def deform_roi_pool(maps, rois, offset, bins, scale, ratio, gamma):
    output = []
    for n, (image, *box) in enumerate(rois.double().tolist()):
        left, top, right, bottom = (v * scale - .5 for v in box)
        height, width = bottom - top, right - left
        rows = ratio or math.ceil(height / bins[0])
        columns = ratio or math.ceil(width / bins[1])
        for i, j in itertools.product(*map(range, bins)):
            x = left + (gamma * width * offset[n, 0, i, j] if len(offset) else 0)
            y = top + (gamma * height * offset[n, 1, i, j] if len(offset) else 0)
            samples = [bilinear(maps[int(image)], y + (i + (r + .5) / rows) * height / bins[0],
                                x + (j + (c + .5) / columns) * width / bins[1])
                       for r in range(rows) for c in range(columns)]
            output.append(sum(samples, torch.zeros(maps.shape[1])) / max(rows * columns, 1))
    output = torch.stack(output) if output else maps.new_zeros(0)
    output = output.view(len(rois), *bins, maps.shape[1]).permute(0, 3, 1, 2)
    return output + 0 * (maps.sum() + offset.sum())


@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('name, maps, rois', roi_inputs())
def test_deform_roi_pool(ours, name, maps, rois, ratio):
    offset = Draw(11).normal(len(rois), 2, 2, 3)
    arguments = (2, 3), .25, ratio, .1
    close_to_formula(lambda x, o: ours.deform_roi_pool(x, rois, o, *arguments),
                     lambda x, o: deform_roi_pool(x, rois, o, *arguments), maps, offset)
    close_to_formula(lambda x: ours.deform_roi_pool(x, rois, None, *arguments),
                     lambda x: deform_roi_pool(x, rois, torch.zeros(0), *arguments), maps)


def sigmoid_focal_loss(x, target, weight, gamma, alpha):
    loss = 0 * x
    for n, c in itertools.product(*map(range, x.shape)):
        p, q = 1 / (1 + torch.exp(-x[n, c])), 1 / (1 + torch.exp(x[n, c]))
        if target[n] == c:
            loss[n, c] = -alpha * q**gamma * p.clamp(min=TINY).log()
        else:
            loss[n, c] = -(1 - alpha) * p**gamma * q.clamp(min=TINY).log()
        if weight is not None:
            loss[n, c] *= weight[target[n]]
    return loss


def softmax_focal_loss(x, target, weight, gamma, alpha):
    loss = x.new_zeros(len(x))
    for n, label in enumerate(target.tolist()):
        if label >= 0:
            p = x[n].softmax(0)[label]
            loss[n] = -alpha * (1 - p)**gamma * p.clamp(min=TINY).log()
            if weight is not None:
                loss[n] *= weight[label]
    return loss + 0 * x.sum()


def _focal_inputs():
    draw = Draw(12)
    x = draw.normal(9, 5, scale=4.)
    x[0] = torch.tensor([0, 30, -30, 15, -15.])
    target = torch.tensor([0, 1, 2, 3, 4, 0, 5, 5, -1])
    yield 'plain', x, target, None
    yield 'weights', x[:6], target[:6], draw.uniform(5)
    yield 'one', x[:1, :1], target[:1], None
    yield 'none', x[:0], target[:0], None


@pytest.mark.parametrize('gamma, alpha', [(2., .25), (0., .5), (1.5, 1.)])
@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
@pytest.mark.parametrize('name, x, target, weight', _focal_inputs())
def test_sigmoid_focal_loss(ours, name, x, target, weight, reduction, gamma, alpha):
    if not len(x):
        reduction = 'sum'  # mmcv divides the mean by the number of samples
    reduce = dict(none=lambda y: y, mean=lambda y: y.sum() / len(x), sum=torch.sum)[reduction]
    close_to_formula(
        lambda x: ours.sigmoid_focal_loss(x, target, gamma, alpha, weight, reduction),
        lambda x: reduce(sigmoid_focal_loss(x, target, weight, gamma, alpha)), x)


@pytest.mark.parametrize('gamma, alpha', [(2., .25), (1., .5), (1.5, 1.)])
@pytest.mark.parametrize('reduction', ['mean', 'sum'])
@pytest.mark.parametrize('name, x, target, weight', list(_focal_inputs())[:3])
def test_softmax_focal_loss(ours, name, x, target, weight, reduction, gamma, alpha):
    keep = target < x.shape[1]
    x, target = x[keep], target[keep]
    reduce = dict(mean=torch.mean, sum=torch.sum)[reduction]
    close_to_formula(
        lambda x: ours.softmax_focal_loss(x, target, gamma, alpha, weight, reduction),
        lambda x: reduce(softmax_focal_loss(x, target, weight, gamma, alpha)), x)


def test_focal_losses_refuse_labels_beyond_the_background(ours):
    x = torch.zeros(2, 3)
    with pytest.raises(RuntimeError, match='target'):
        ours.sigmoid_focal_loss(x, torch.tensor([0, 4]))
    with pytest.raises((RuntimeError, IndexError)):
        ours.softmax_focal_loss(x, torch.tensor([0, 3]))


@pytest.mark.parametrize('levels, batch, heads, dims, queries, points', [
    ([(4, 5), (2, 3)], 2, 2, 3, 5, 2), ([(1, 1)], 1, 1, 1, 1, 1), ([(3, 7)], 1, 4, 2, 0, 3),
    ([(6, 2), (3, 1), (1, 1)], 1, 2, 4, 7, 4)])
def test_ms_deform_attn(ours, levels, batch, heads, dims, queries, points):
    shapes = torch.tensor(levels)
    starts = torch.cat([shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]])
    draw = Draw(13)
    value = draw.normal(batch, int(shapes.prod(1).sum()), heads, dims)
    # Some samples outside the maps, some far outside.
    locations = draw.uniform(batch, queries, heads, len(levels), points, 2) * 1.6 - .3
    locations[:, :1] *= 50
    attention = draw.uniform(batch, queries, heads, len(levels), points)
    close_to_formula(
        lambda v, p, a: MultiScaleDeformableAttnFunction.apply(v, shapes, starts, p, a, 64),
        lambda v, p, a: multi_scale_deformable_attn_pytorch(v, shapes, p, a),
        value, locations, attention)


def carafe(maps, masks, kernel, groups, factor):
    batch, channels, height, width = maps.shape
    half = kernel // 2
    padded = F.pad(maps, (half, ) * 4)
    output = []
    for c, y, x in itertools.product(range(channels), range(height * factor),
                                     range(width * factor)):
        group = c // (channels // groups)
        mask = masks[:, group * kernel**2:(group + 1) * kernel**2, y, x].view(-1, kernel, kernel)
        top, left = y // factor, x // factor
        output.append((padded[:, c, top:top + kernel, left:left + kernel] * mask).sum((1, 2)))
    return torch.stack(output, 1).view(batch, channels, height * factor, width * factor)


@pytest.mark.parametrize('kernel, groups, factor, size', [(3, 1, 2, (3, 4)), (5, 2, 1, (2, 2)),
                                                          (1, 4, 3, (1, 1))])
def test_carafe(ours, kernel, groups, factor, size):
    draw = Draw(14)
    maps = draw.normal(2, 4, *size)
    masks = draw.uniform(2, groups * kernel**2, size[0] * factor, size[1] * factor)
    close_to_formula(lambda x, m: ours.carafe(x, m, kernel, groups, factor),
                     lambda x, m: carafe(x, m, kernel, groups, factor), maps, masks)
    # Its backward pass refuses CPU tensors in mmcv's Python.
    close([ours.carafe_naive(maps, masks, kernel, groups, factor)],
          [ours.carafe(maps, masks, kernel, groups, factor)])


@pytest.mark.parametrize('kernel, padding', [((3, 3), (1, 1)), ((1, 3), (0, 1)), ((1, 1), (0, 0))])
@pytest.mark.parametrize('share', [0, .4, 1])
def test_masked_conv2d(ours, kernel, padding, share):
    draw = Draw(15)
    maps, weight, bias = draw.normal(1, 3, 5, 4), draw.normal(2, 3, *kernel), draw.normal(2)
    mask = draw.uniform(1, 5, 4) < share
    expected = F.conv2d(maps, weight, bias, 1, padding) * mask
    close([ours.masked_conv2d(maps, mask, weight, bias, padding)], [expected])


@pytest.mark.parametrize('shape', [(3, 2, 4, 5), (2, 3, 1, 1), (1, 1, 3, 2)])
def test_sync_bn(ours, shape):
    results = []
    for stock in (False, True):
        bn = torch.nn.BatchNorm2d(shape[1])
        torch.nn.init.constant_(bn.weight, 1.5)
        torch.nn.init.constant_(bn.bias, -.5)
        x = Draw(16).normal(*shape).requires_grad_()
        # As a group of one process, without a process group.
        output = bn(x) if stock else SyncBatchNormFunction.apply(
            x, bn.running_mean, bn.running_var, bn.weight, bn.bias, bn.momentum, bn.eps, None, 1,
            'default')
        grads = torch.autograd.grad(output, (x, bn.weight, bn.bias), weights_like(output))
        results.append([output.detach(), *grads, bn.running_mean, bn.running_var])
    close(*results)


def test_nms_keeps_the_order_of_equal_scores(ours):
    """Also where there are too many of them for torch's own sort, which is compiled mmcv's."""
    boxes = torch.arange(200.)[:, None] * 10 + torch.tensor([0, 0, 9, 9.])
    order = ours.nms(boxes, torch.ones(200), .5)[1]
    assert order.tolist() == list(range(200))
    groups = ours.nms_match(torch.cat([boxes, torch.ones(200, 1)], 1), .5)
    assert [g.tolist() for g in groups] == [[i] for i in range(200)]


@pytest.mark.parametrize('size', [(0, 5), (5, 0)])
@pytest.mark.parametrize('pool', ['avg', 'max'])
def test_maps_without_pixels_give_zeros(ours, size, pool):
    maps, rois = torch.zeros(1, 2, *size), torch.tensor([[0, 1, 1, 9, 9.]])
    assert not ours.roi_align(maps, rois, 2, 1., 0, pool).any()
    assert not ours.roi_pool(maps, rois, 2).any()
    assert not ours.deform_roi_pool(maps, rois, None, (2, 2)).any()


def test_deform_conv_gives_the_weights_gradient_of_the_output_it_is_asked_for(ours):
    """Not one that was kept from an earlier call for the input alone."""
    draw = Draw(17)
    maps, offset = draw.normal(1, 2, 4, 4).requires_grad_(), draw.normal(1, 18, 4, 4)
    weight = draw.normal(3, 2, 3, 3).requires_grad_()
    output = ours.deform_conv2d(maps, offset, weight, 1, 1)
    first, second = draw.normal(*output.shape), draw.normal(*output.shape)
    torch.autograd.grad(output, maps, first, retain_graph=True)
    found, = torch.autograd.grad(output, weight, second, retain_graph=True)
    both = torch.autograd.grad(output, (maps, weight), second)
    close([found], [both[1]])
