"""Pooling of regions of interest: RoIAlign, RoIPool and deformable RoI pooling."""
from typing import Iterator, Tuple

import torch
import torch.nn.functional as F
import torchvision  # noqa: F401 - brings torch.ops.torchvision
from torch import Tensor

from .precision import precise

__all__ = [
    'deform_roi_pool_backward', 'deform_roi_pool_forward', 'roi_align_backward',
    'roi_align_forward', 'roi_pool_backward', 'roi_pool_forward'
]

# A maximum over no sample, as mmcv has it on the CPU.
_NO_MAXIMUM = -10000.


def _rectangles(rois: Tensor, spatial_scale: float, aligned: bool) -> Tuple[Tensor, Tensor]:
    """Return the upper left corners and the sizes of RoIs on the map, both ``(R, 2)`` as y, x."""
    corners = rois[:, 1:] * spatial_scale - (0.5 if aligned else 0.)
    start = corners[:, :2].flip(1)
    size = corners[:, 2:].flip(1) - start
    return start, size if aligned else size.clamp(min=1)


def _same_grids(size: Tensor, bins: Tuple[int, int],
                sampling_ratio: int) -> Iterator[Tuple[Tensor, int, int]]:
    """Yield the RoIs that have the same number of samples in a bin, with that number.

    Without a fixed ratio the numbers have to be known to the host.
    """
    if sampling_ratio > 0:
        yield torch.arange(len(size), device=size.device), sampling_ratio, sampling_ratio
        return
    grids = (size / size.new_tensor(bins)).ceil().clamp(min=0).long()
    for rows, columns in grids.unique(dim=0).tolist():
        yield (grids == grids.new_tensor([rows, columns])).all(1).nonzero()[:, 0], rows, columns


def _points(start: Tensor, size: Tensor, bins: Tuple[int, int], rows: int,
            columns: int) -> Tuple[Tensor, Tensor]:
    """Return y ``(R, bins * rows)`` and x ``(R, bins * columns)`` of all samples of RoIs."""
    coordinates = []
    for axis, number in enumerate((rows, columns)):
        steps = torch.arange(bins[axis] * number, device=start.device)
        width = size[:, axis, None] / bins[axis]
        coordinates.append(start[:, axis, None] + (steps // max(number, 1)) * width +
                           (steps % max(number, 1) + 0.5) * width / max(number, 1))
    return coordinates[0], coordinates[1]


def _corners(y: Tensor, x: Tensor, height: int, width: int) -> Tuple[Tensor, Tensor]:
    """Return the four pixels around points and their weights, each with a last dimension of 4.

    Points up to one pixel outside take the border's value; those further out have no weight.
    """
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    top, left = y.detach().floor(), x.detach().floor()
    below, right = y - top, x - left
    rows = torch.stack([top, top, top + 1, top + 1], -1).clamp(max=height - 1)
    columns = torch.stack([left, left + 1, left, left + 1], -1).clamp(max=width - 1)
    weights = torch.stack([(1 - below) * (1 - right), (1 - below) * right,
                           below * (1 - right), below * right], -1)
    return (rows * width + columns).long(), torch.where(inside[..., None], weights, 0)


def roi_align_forward(input: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor,
                      argmax_x: Tensor, aligned_height: int, aligned_width: int,
                      spatial_scale: float, sampling_ratio: int, pool_mode: int,
                      aligned: bool) -> None:
    """Write the average or maximum of bilinear samples in the bins of RoIs to ``output``.

    Args:
        input: ``(B, C, H, W)``.
        rois: ``(R, 5)``, index of the image and corners.
        output: ``(R, C, aligned_height, aligned_width)`` zeros.
        argmax_y, argmax_x: The same; receive where the maximum was found, if it is one.
        aligned_height, aligned_width: Bins of a RoI.
        spatial_scale: Size of the map relative to that of the image.
        sampling_ratio: Samples of a bin in each direction; 0 takes about one a pixel.
        pool_mode: 0 for the maximum, 1 for the average.
        aligned: Shift by half a pixel, and do not enlarge RoIs below one pixel.
    """
    if not (input.numel() and output.numel()):
        return
    bins = aligned_height, aligned_width
    maps, rois = precise(input), precise(rois).to(precise(input))
    if pool_mode:
        output.copy_(torch.ops.torchvision.roi_align(maps, rois, spatial_scale, *bins,
                                                     sampling_ratio, aligned))
        return
    start, size = _rectangles(rois, spatial_scale, aligned)
    for found, rows, columns in _same_grids(size, bins, sampling_ratio):
        shape = len(found), input.shape[1], *bins
        if not rows * columns:
            output[found] = _NO_MAXIMUM
            argmax_y[found] = argmax_x[found] = -1
            continue
        # One sample a bin of a grid that is finer by the number of samples.
        samples = torch.ops.torchvision.roi_align(
            maps, rois[found], spatial_scale, bins[0] * rows, bins[1] * columns, 1, aligned)
        samples = samples.view(*shape[:2], bins[0], rows, bins[1], columns)
        largest, place = samples.transpose(3, 4).flatten(4).max(4)
        y, x = _points(start[found], size[found], bins, rows, columns)
        y = y.view(-1, 1, bins[0], 1, rows).expand(*shape, rows)
        x = x.view(-1, 1, 1, bins[1], columns).expand(*shape, columns)
        output[found] = largest.to(output.dtype)
        argmax_y[found] = y.gather(4, place[..., None] // columns)[..., 0].to(output.dtype)
        argmax_x[found] = x.gather(4, place[..., None] % columns)[..., 0].to(output.dtype)


def roi_align_backward(grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor,
                       grad_input: Tensor, aligned_height: int, aligned_width: int,
                       spatial_scale: float, sampling_ratio: int, pool_mode: int,
                       aligned: bool) -> None:
    """Write the gradient of :func:`roi_align_forward` to ``grad_input``."""
    if not (grad_input.numel() and grad_output.numel()):
        return
    grad, shape = precise(grad_output), grad_input.shape
    rois = rois.to(grad)
    if pool_mode:
        grad_input.copy_(torch.ops.torchvision._roi_align_backward(
            grad, rois, spatial_scale, aligned_height, aligned_width, *shape, sampling_ratio,
            aligned))
        return
    pixels, weights = _corners(argmax_y.to(grad), argmax_x.to(grad), *shape[2:])
    weights = torch.where((argmax_y != -1)[..., None], weights, 0)
    planes = rois[:, :1].long() * shape[1] + torch.arange(shape[1], device=grad.device)
    places = planes[:, :, None, None, None] * (shape[2] * shape[3]) + pixels
    total = grad.new_zeros(grad_input.numel())
    total.index_add_(0, places.flatten(), (grad[..., None] * weights).flatten())
    grad_input.copy_(total.view(shape))


def _bins_as_rois(rois: Tensor, shape: torch.Size, bins: Tuple[int, int],
                  spatial_scale: float) -> Tensor:
    """Return each bin of RoIPool as a RoI of whole pixels, ``(R * bins, 5)``.

    torchvision rounds RoIs to pixels, mmcv the edges of bins. A RoI of whole pixels with one
    bin is the same to both.
    """
    begin = rois[:, 1:3].flip(1) * spatial_scale
    end = (rois[:, 3:].flip(1) + 1) * spatial_scale
    size = end - begin
    edges = []
    for axis in range(2):
        steps = torch.arange(bins[axis] + 1, device=rois.device)
        places = steps * (size[:, axis, None] / bins[axis]) + begin[:, axis, None]
        edges.append((places[:, :-1].floor().clamp(0, shape[2 + axis]),
                      places[:, 1:].ceil().clamp(0, shape[2 + axis])))
    (top, bottom), (left, right) = edges
    grid = len(rois), *bins
    top, bottom = top[:, :, None].expand(grid), bottom[:, :, None].expand(grid)
    left, right = left[:, None].expand(grid), right[:, None].expand(grid)
    empty = (bottom <= top) | (right <= left) | (size <= 0).any(1)[:, None, None]
    corners = torch.stack([left, top, right - 1, bottom - 1], -1)
    # To torchvision a RoI has at least one pixel: an empty one goes where there are none.
    corners = torch.where(empty[..., None], float(max(shape[2:])), corners)
    images = rois[:, 0, None, None].expand(grid)
    return torch.cat([images[..., None], corners], -1).flatten(0, 2)


def roi_pool_forward(input: Tensor, rois: Tensor, output: Tensor, argmax: Tensor,
                     pooled_height: int, pooled_width: int, spatial_scale: float) -> None:
    """Write the maximum of the pixels in the bins of RoIs to ``output``, its place to ``argmax``.

    Args:
        input: ``(B, C, H, W)``.
        rois: ``(R, 5)``, index of the image and corners.
        output: ``(R, C, pooled_height, pooled_width)`` zeros.
        argmax: The same; receives the pixel's index in the map, or -1 in an empty bin.
        pooled_height, pooled_width: Bins of a RoI.
        spatial_scale: Size of the map relative to that of the image.
    """
    if not output.numel():
        return
    argmax.fill_(-1)
    if not input.numel():
        return
    maps = precise(input)
    grid = len(rois), pooled_height, pooled_width
    pixels = _bins_as_rois(rois.to(maps), input.shape, grid[1:], spatial_scale)
    for target, found in zip((output, argmax),
                             torch.ops.torchvision.roi_pool(maps, pixels, 1., 1, 1)):
        target.copy_(found.view(*grid, -1).permute(0, 3, 1, 2))


def roi_pool_backward(grad_output: Tensor, rois: Tensor, argmax: Tensor, grad_input: Tensor,
                      pooled_height: int, pooled_width: int, spatial_scale: float) -> None:
    """Write the gradient of :func:`roi_pool_forward` to ``grad_input``."""
    if not (grad_input.numel() and grad_output.numel()):
        return
    grad = precise(grad_output).contiguous()
    grad_input.copy_(torch.ops.torchvision._roi_pool_backward(
        grad, rois.to(grad), argmax.contiguous(), spatial_scale, pooled_height, pooled_width,
        *grad_input.shape))


def _deform_roi_pool(input: Tensor, rois: Tensor, offset: Tensor, bins: Tuple[int, int],
                     spatial_scale: float, sampling_ratio: int, gamma: float) -> Tensor:
    start, size = _rectangles(rois, spatial_scale, True)
    channels, height, width = input.shape[1:]
    pixels = input.permute(0, 2, 3, 1).reshape(-1, channels)
    output, rows_of, values = input.new_zeros(len(rois), *bins, channels), [], []
    for found, rows, columns in _same_grids(size, bins, sampling_ratio):
        if not rows * columns:
            continue
        y, x = _points(start[found], size[found], bins, rows, columns)
        # (RoI, row of bins, column of bins, row of samples, column of samples)
        y = y.view(-1, bins[0], 1, rows, 1).expand(-1, -1, bins[1], -1, columns)
        x = x.view(-1, 1, bins[1], 1, columns).expand(-1, bins[0], -1, rows, -1)
        if offset.numel():
            shift = offset[found] * gamma * size[found].flip(1)[:, :, None, None]
            x, y = x + shift[:, 0, ..., None, None], y + shift[:, 1, ..., None, None]
        places, weights = _corners(y, x, height, width)
        places = places + rois[found, 0].long().view(-1, 1, 1, 1, 1, 1) * (height * width)
        pooled = F.embedding_bag(places.flatten(3).flatten(0, 2), pixels, mode='sum',
                                 per_sample_weights=weights.flatten(3).flatten(0, 2))
        rows_of.append(found)
        values.append(pooled.view(-1, *bins, channels) / (rows * columns))
    if values:
        output = output.index_copy(0, torch.cat(rows_of), torch.cat(values))
    return output.permute(0, 3, 1, 2)


def deform_roi_pool_forward(input: Tensor, rois: Tensor, offset: Tensor, output: Tensor,
                            pooled_height: int, pooled_width: int, spatial_scale: float,
                            sampling_ratio: int, gamma: float) -> None:
    """Write the average of bilinear samples in shifted bins of RoIs to ``output``.

    Args:
        input: ``(B, C, H, W)``.
        rois: ``(R, 5)``, index of the image and corners.
        offset: ``(R, 2, pooled_height, pooled_width)`` shifts in x and y relative to the RoI's
            size, or empty.
        output: ``(R, C, pooled_height, pooled_width)`` zeros.
        pooled_height, pooled_width: Bins of a RoI.
        spatial_scale: Size of the map relative to that of the image.
        sampling_ratio: Samples of a bin in each direction; 0 takes about one a pixel.
        gamma: Factor of the shifts.
    """
    if input.numel() and output.numel():
        maps = precise(input)
        output.copy_(_deform_roi_pool(maps, rois.to(maps), offset.to(maps),
                                      (pooled_height, pooled_width), spatial_scale,
                                      sampling_ratio, gamma))


def deform_roi_pool_backward(grad_output: Tensor, input: Tensor, rois: Tensor, offset: Tensor,
                             grad_input: Tensor, grad_offset: Tensor, pooled_height: int,
                             pooled_width: int, spatial_scale: float, sampling_ratio: int,
                             gamma: float) -> None:
    """Write the gradients of :func:`deform_roi_pool_forward`.

    They are the derivatives of the forward pass also at the border of the map, where mmcv's
    kernel takes weights of points that it has moved.
    """
    if not (input.numel() and grad_output.numel()):
        return
    with torch.enable_grad():
        maps = precise(input).detach().requires_grad_()
        shifts = offset.to(maps).detach().requires_grad_()
        output = _deform_roi_pool(maps, rois.to(maps), shifts, (pooled_height, pooled_width),
                                  spatial_scale, sampling_ratio, gamma)
        if not output.requires_grad:  # no RoI has a sample
            return
        grads = torch.autograd.grad(output, (maps, shifts), grad_output.to(maps),
                                    allow_unused=True)
    for target, grad in zip((grad_input, grad_offset), grads):
        if grad is not None:
            target.copy_(grad)
