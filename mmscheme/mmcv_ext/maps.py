"""Operators on feature maps: CARAFE, PSA masks and convolution at masked positions."""
from typing import Iterator, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import precise

__all__ = [
    'carafe_backward', 'carafe_forward', 'carafe_naive_backward', 'carafe_naive_forward',
    'masked_col2im_forward', 'masked_im2col_forward', 'psamask_backward', 'psamask_forward'
]


def _carafe_parts(features: Tensor, masks: Tensor, kernel_size: int, group_size: int,
                  scale_factor: int) -> Tuple[Tensor, Tensor]:
    """Return the neighbours ``(B, g, c, k, H, W)`` and masks ``(B, g, k, H, s, W, s)``."""
    batch, channels, height, width = features.shape
    neighbours = F.unfold(precise(features), kernel_size, padding=kernel_size // 2)
    return (neighbours.view(batch, group_size, channels // group_size, -1, height, width),
            precise(masks).view(batch, group_size, -1, height, scale_factor, width, scale_factor))


def carafe_naive_forward(features: Tensor, masks: Tensor, output: Tensor, kernel_size: int,
                         group_size: int, scale_factor: int) -> None:
    """Write the features, upsampled with a kernel of its own for each pixel, to ``output``.

    Args:
        features: ``(B, C, H, W)``.
        masks: ``(B, group_size * kernel_size ** 2, H * scale_factor, W * scale_factor)``.
        output: ``(B, C, H * scale_factor, W * scale_factor)``.
        kernel_size: Width of the kernels, odd.
        group_size: Groups of channels that share kernels.
        scale_factor: Factor of the upsampling.
    """
    if features.numel():
        parts = _carafe_parts(features, masks, kernel_size, group_size, scale_factor)
        output.copy_(torch.einsum('bgckhw,bgkhiwj->bgchiwj', *parts).reshape(output.shape))


def carafe_naive_backward(grad_output: Tensor, features: Tensor, masks: Tensor,
                          grad_input: Tensor, grad_masks: Tensor, kernel_size: int,
                          group_size: int, scale_factor: int) -> None:
    """Write the gradients of :func:`carafe_naive_forward`."""
    if not features.numel():
        return
    parts = _carafe_parts(features, masks, kernel_size, group_size, scale_factor)
    batch, channels, height, width = features.shape
    grad = precise(grad_output).view(batch, group_size, -1, height, scale_factor, width,
                                      scale_factor)
    grad_masks.copy_(torch.einsum('bgckhw,bgchiwj->bgkhiwj', parts[0], grad).reshape(masks.shape))
    spread = torch.einsum('bgkhiwj,bgchiwj->bgckhw', parts[1], grad)
    grad_input.copy_(F.fold(spread.reshape(batch, -1, height * width), (height, width),
                            kernel_size, padding=kernel_size // 2))


def carafe_forward(features: Tensor, masks: Tensor, rfeatures: Tensor, routput: Tensor,
                   rmasks: Tensor, output: Tensor, kernel_size: int, group_size: int,
                   scale_factor: int) -> None:
    """Do what :func:`carafe_naive_forward` does, and keep the features in ``rfeatures``."""
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(grad_output: Tensor, rfeatures: Tensor, masks: Tensor, rgrad_output: Tensor,
                    rgrad_input_hs: Tensor, rgrad_input: Tensor, rgrad_masks: Tensor,
                    grad_input: Tensor, grad_masks: Tensor, kernel_size: int, group_size: int,
                    scale_factor: int) -> None:
    """Write the gradients of :func:`carafe_forward`."""
    carafe_naive_backward(grad_output, rfeatures, masks, grad_input, grad_masks, kernel_size,
                          group_size, scale_factor)


def _psa_rows(height: int, width: int, mask: Tuple[int, int], half: Tuple[int, int],
              device: torch.device) -> Iterator[Tuple[slice, Tensor, Tensor]]:
    """Yield for each row of pixels the element of each pixel's mask at them, and if there is one.

    One row after the other, because the indices of all are twice as large as the output.

    Yields:
        The row's pixels among ``H * W``, and two ``(W, H * W)`` tensors.
    """
    x, pixels = torch.arange(width, device=device), torch.arange(height * width, device=device)
    column = x[:, None] - pixels % width + half[1]
    for y in range(height):
        row = y - pixels // width + half[0]
        inside = (row >= 0) & (row < mask[0]) & (column >= 0) & (column < mask[1])
        yield (slice(y * width, (y + 1) * width), torch.where(inside, row * mask[1] + column, 0),
               inside)


def psamask_forward(input: Tensor, output: Tensor, psa_type: int, num_: int, h_feature: int,
                    w_feature: int, h_mask: int, w_mask: int, half_h_mask: int,
                    half_w_mask: int) -> None:
    """Write the attention of pixels to pixels that masks around each pixel mean to ``output``.

    Args:
        input: ``(B, h_mask * w_mask, H, W)``, a mask around each pixel.
        output: ``(B, H * W, H, W)`` zeros.
        psa_type: 0 collects, what each pixel gets from others; 1 distributes.
        num_: Size of the batch.
        h_feature, w_feature: Size of the map.
        h_mask, w_mask: Size of the masks.
        half_h_mask, half_w_mask: The pixel's place in its mask.
    """
    target = output.view(num_, h_feature * w_feature, -1)
    target = target.transpose(1, 2) if psa_type else target
    for pixels, element, inside in _psa_rows(h_feature, w_feature, (h_mask, w_mask),
                                             (half_h_mask, half_w_mask), input.device):
        found = input.flatten(2).gather(1, element.expand(num_, -1, -1))
        target[:, pixels] = torch.where(inside, found, 0)


def psamask_backward(grad_output: Tensor, grad_input: Tensor, psa_type: int, num_: int,
                     h_feature: int, w_feature: int, h_mask: int, w_mask: int, half_h_mask: int,
                     half_w_mask: int) -> None:
    """Write the gradient of :func:`psamask_forward` to ``grad_input``."""
    grad = grad_output.reshape(num_, h_feature * w_feature, -1)
    grad = grad.transpose(1, 2) if psa_type else grad
    total = grad_input.view(num_, h_mask * w_mask, -1)
    for pixels, element, inside in _psa_rows(h_feature, w_feature, (h_mask, w_mask),
                                             (half_h_mask, half_w_mask), grad.device):
        total.scatter_add_(1, element.expand(num_, -1, -1),
                           torch.where(inside, grad[:, pixels], 0))


def masked_im2col_forward(im: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, col: Tensor,
                          kernel_h: int, kernel_w: int, pad_h: int, pad_w: int) -> None:
    """Write the neighbourhoods of some pixels to ``col``.

    Args:
        im: ``(1, C, H, W)``.
        mask_h_idx, mask_w_idx: ``(N, )`` rows and columns.
        col: ``(C * kernel_h * kernel_w, N)``.
        kernel_h, kernel_w: Size of a neighbourhood.
        pad_h, pad_w: Zeros around the map.
    """
    padded = F.pad(im[0], (pad_w, pad_w, pad_h, pad_h))
    target = col.view(im.shape[1], kernel_h * kernel_w, -1)
    for i in range(kernel_h):
        for j in range(kernel_w):
            target[:, i * kernel_w + j] = padded[:, mask_h_idx + i, mask_w_idx + j]


def masked_col2im_forward(col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor,
                          height: int, width: int, channels: int) -> None:
    """Write values ``(C, N)`` to the pixels of ``im`` that rows and columns name."""
    im[0, :, mask_h_idx, mask_w_idx] = col
