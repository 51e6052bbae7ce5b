"""Calls of mmcv.ops that compiled mmcv answers on a CPU, on random and degenerate inputs."""
import itertools

import numpy as np
import torch
from mmcv import ops


class Draw:
    """Random tensors that are the same in every version of torch."""

    def __init__(self, seed):
        self.random = np.random.RandomState(seed)

    def normal(self, *shape, scale=1.):
        return torch.tensor(self.random.standard_normal(shape), dtype=torch.float32) * scale

    def uniform(self, *shape):
        return torch.tensor(self.random.random_sample(shape), dtype=torch.float32)

    def boxes(self, number, width=60, size=20):
        corners = self.uniform(number, 2) * width
        return torch.cat([corners, corners + self.uniform(number, 2) * size], 1)

    def rois(self, images, number, width=60, size=20):
        images = torch.from_numpy(self.random.randint(0, images, (number, 1)))
        return torch.cat([images.float(), self.boxes(number, width, size) - 5], 1)


def with_gradients(function, *inputs):
    """Outputs, and gradients for a fixed weighting of them."""
    inputs = [x.requires_grad_() if x.is_floating_point() else x for x in inputs]
    output = function(*inputs)
    weights = Draw(output.numel()).normal(*output.shape).to(output)
    return [output.detach(),
            *torch.autograd.grad(output, [x for x in inputs if x.requires_grad], weights)]


def _nms_inputs():
    draw = Draw(1)
    yield 'none', draw.boxes(0), draw.uniform(0)
    yield 'one', draw.boxes(1), draw.uniform(1)
    yield 'random', draw.boxes(60, 40), draw.uniform(60)
    # Up to 16 equal scores torch's sort, which mmcv calls, keeps the order.
    yield 'equal_scores', draw.boxes(16, 15).round(), torch.full((16, ), .5)
    yield 'equal_boxes', draw.boxes(4).repeat(4, 1), draw.uniform(16).mul(4).round() / 4
    yield 'no_area', draw.boxes(9, 3, 0).round(), draw.uniform(9)
    # An IoU of exactly the threshold: 1 / 2 and 3 / 10.
    yield 'at_threshold', torch.tensor([[0, 0, 2, 1], [0, 0, 1, 1], [50, 0, 60, 1],
                                        [50, 0, 53, 1.]]), torch.tensor([.9, .8, .7, .6])
    yield 'far', draw.boxes(20) * 1e4, draw.uniform(20)


def _suppression():
    for name, boxes, scores in _nms_inputs():
        for offset in (0, 1):
            for threshold in (.3, .5):
                yield (f'nms/{name}/{offset}/{threshold}',
                       lambda b=boxes, s=scores, t=threshold, o=offset: ops.nms(b, s, t, o))
            for method in ('naive', 'linear', 'gaussian'):
                yield (f'soft_nms/{name}/{offset}/{method}',
                       lambda b=boxes, s=scores, o=offset, m=method: ops.soft_nms(
                           b, s, .3, .5, .1, m, o))
        for threshold in (.3, .5):
            yield (f'nms_match/{name}/{threshold}', lambda b=boxes, s=scores, t=threshold: [
                x for group in ops.nms_match(torch.cat([b, s[:, None]], 1), t)
                for x in (torch.tensor(len(group)), group)])
    draw = Draw(2)
    boxes, others = draw.boxes(7), draw.boxes(7)
    for mode, aligned, offset in itertools.product(('iou', 'iof'), (False, True), (0, 1)):
        yield (f'bbox_overlaps/{mode}/{aligned}/{offset}',
               lambda m=mode, a=aligned, o=offset: [ops.bbox_overlaps(boxes, others, m, a, o)])


def roi_inputs():
    draw = Draw(3)
    yield 'none', draw.normal(2, 3, 6, 7), draw.rois(2, 0)
    yield 'one', draw.normal(1, 2, 6, 7), draw.rois(1, 1)
    yield 'random', draw.normal(2, 3, 7, 9), draw.rois(2, 8, 30, 30)
    yield 'one_pixel', draw.normal(1, 2, 1, 1), draw.rois(1, 3, 4, 8)
    outside = torch.tensor([[0, 500, 500, 520, 530], [0, -60, -60, -40, -50], [1, -20, -20, 90, 80],
                            [0, 26, 3, 80, 9], [1, -8, -8, 4, 4.]])
    yield 'outside', draw.normal(2, 2, 6, 7), outside
    empty = torch.tensor([[0, 5, 5, 5, 5], [1, 3, 2, 3, 20], [0, 400, 400, 400, 400.]])
    yield 'empty', draw.normal(2, 2, 6, 7), empty


def _roi_align():
    for name, maps, rois in roi_inputs():
        for pool, aligned, ratio in itertools.product(('avg', 'max'), (True, False), (0, 2)):
            yield (f'roi_align/{name}/{pool}/{aligned}/{ratio}',
                   lambda x=maps, r=rois, p=pool, a=aligned, s=ratio: with_gradients(
                       lambda y: ops.roi_align(y, r, (2, 3), .25, s, p, a), x.clone()))


def _deform_conv():
    # groups, deformable groups, kernel, stride, padding, dilation, batch
    for number, numbers in enumerate([(1, 1, (3, 3), 1, 1, 1, 2), (2, 2, (3, 3), 2, 1, 1, 1),
                                      (1, 4, (3, 1), (1, 2), (1, 0), (2, 1), 2),
                                      (4, 1, (1, 1), 1, 0, 1, 1)]):
        groups, deform_groups, kernel, *rest, batch = numbers
        draw = Draw(4 + number)
        maps = draw.normal(batch, 4, 6, 5)
        weight = draw.normal(4, 4 // groups, *kernel)
        stride, padding, dilation = rest
        size = torch.nn.functional.conv2d(maps, weight, None, *rest, groups).shape[2:]
        taps = deform_groups * kernel[0] * kernel[1]
        # Offsets of several pixels reach beyond the map, whole ones hit pixels.
        for name, offset in (('random', draw.normal(batch, 2 * taps, *size, scale=2.)),
                             ('whole', draw.normal(batch, 2 * taps, *size, scale=2.).round())):
            mask, bias = draw.uniform(batch, taps, *size), draw.normal(4)
            plain = dict(stride=stride, padding=padding, dilation=dilation, groups=groups,
                         deform_groups=deform_groups)
            yield (f'deform_conv/{number}/{name}',
                   lambda x=maps, o=offset, w=weight, k=plain: with_gradients(
                       lambda x, o, w: ops.deform_conv2d(x, o, w, *k.values()),
                       x.clone(), o.clone(), w.clone()))
            yield (f'modulated_deform_conv/{number}/{name}',
                   lambda x=maps, o=offset, m=mask, w=weight, k=plain: with_gradients(
                       lambda x, o, m, w: ops.modulated_deform_conv2d(x, o, m, w, None,
                                                                      *k.values()),
                       x.clone(), o.clone(), m.clone(), w.clone()))
            yield (f'modulated_deform_conv_bias/{number}/{name}',
                   lambda x=maps, o=offset, m=mask, w=weight, b=bias, k=plain: with_gradients(
                       lambda *t: ops.modulated_deform_conv2d(*t, *k.values()),
                       x.clone(), o.clone(), m.clone(), w.clone(), b.clone()))


def _psa_mask():
    draw = Draw(9)
    for kind, mask in itertools.product(('collect', 'distribute'), ((3, 5), (7, 7), (1, 2))):
        maps = draw.normal(2, mask[0] * mask[1], 3, 4)
        yield (f'psa_mask/{kind}/{mask[0]}x{mask[1]}',
               lambda x=maps, k=kind, m=mask: with_gradients(ops.PSAMask(k, m), x.clone()))


def cases():
    """Names and functions, each of which returns tensors."""
    return dict(itertools.chain(_suppression(), _roi_align(), _deform_conv(), _psa_mask()))
