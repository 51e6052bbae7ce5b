"""Deformable convolution, with and without modulation."""
import weakref
from typing import Any, Tuple

import torch
import torchvision  # noqa: F401 - brings torch.ops.torchvision
from torch import Tensor

__all__ = [
    'deform_conv_backward_input', 'deform_conv_backward_parameters', 'deform_conv_forward',
    'modulated_deform_conv_backward', 'modulated_deform_conv_forward'
]


def _usable(x: Tensor) -> Tensor:
    # torchvision's kernels know float16 on GPUs, where it is fast, and no bfloat16.
    half = x.dtype == torch.bfloat16 or x.dtype == torch.float16 and not x.is_cuda
    return x.float() if half else x


def _forward(input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor, bias: Tensor,
             *numbers: Any) -> Tensor:
    return torch.ops.torchvision.deform_conv2d(*map(_usable, (input, weight, offset, mask, bias)),
                                               *numbers)


def _at_edge(offset: Tensor, kernel: torch.Size, stride: Tuple[int, int],
             padding: Tuple[int, int], dilation: Tuple[int, int]) -> Tensor:
    """Return True where a coordinate of a sample is -1, one pixel before the map."""
    axes = []
    for axis in range(2):
        taps = torch.arange(kernel[axis], device=offset.device) * dilation[axis] - padding[axis]
        steps = torch.arange(offset.shape[2 + axis], device=offset.device) * stride[axis]
        axes.append(taps[:, None] + steps)
    y = axes[0][:, None, :, None].expand(-1, kernel[1], -1, offset.shape[3])
    x = axes[1][None, :, None].expand(kernel[0], -1, offset.shape[2], -1)
    start = torch.stack([y, x], 2).flatten(0, 2)
    return offset.unflatten(1, (-1, len(start))) == -1 - start


def _backward(grad: Tensor, input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor,
              bias: Tensor, *numbers: Any) -> Tuple[Tensor, ...]:
    """Return the gradients of input, weight, offset, mask and bias."""
    grads = torch.ops.torchvision._deform_conv2d_backward(
        *map(_usable, (grad, input, weight, offset, mask, bias)), *numbers)
    # The samples of a kernel over the padding have a kink there, as long as offsets are zero:
    # mmcv takes the slope of its outer side, torchvision of its inner one.
    edge = _at_edge(offset, weight.shape[2:], numbers[:2], numbers[2:4], numbers[4:6])
    grads[2].view_as(edge).masked_fill_(edge, 0)
    return grads


def deform_conv_forward(input: Tensor, weight: Tensor, offset: Tensor, output: Tensor,
                        columns: Tensor, ones: Tensor, kW: int, kH: int, dW: int, dH: int,
                        padW: int, padH: int, dilationW: int, dilationH: int, group: int,
                        deformable_group: int, im2col_step: int) -> None:
    """Write the deformable convolution of ``input`` to ``output``.

    Args:
        input: ``(B, C, H, W)``.
        weight: ``(O, C / group, kH, kW)``.
        offset: ``(B, 2 * deformable_group * kH * kW, H', W')``, y before x.
        output: ``(B, O, H', W')``.
        columns, ones: Not used.
        kW, kH: Size of the kernel.
        dW, dH: Stride.
        padW, padH: Padding.
        dilationW, dilationH: Dilation.
        group: Groups of the convolution.
        deformable_group: Groups of channels that share offsets.
        im2col_step: Not used.
    """
    nothing, bias = input.new_zeros(len(input), 1), input.new_zeros(len(weight))
    output.copy_(_forward(input, weight, offset, nothing, bias, dH, dW, padH, padW, dilationH,
                          dilationW, group, deformable_group, False))


def deform_conv_backward_input(input: Tensor, offset: Tensor, gradOutput: Tensor,
                               gradInput: Tensor, gradOffset: Tensor, weight: Tensor,
                               columns: Tensor, kW: int, kH: int, dW: int, dH: int, padW: int,
                               padH: int, dilationW: int, dilationH: int, group: int,
                               deformable_group: int, im2col_step: int) -> None:
    """Write the gradients of :func:`deform_conv_forward` for input and offset."""
    nothing, bias = input.new_zeros(len(input), 1), input.new_zeros(len(weight))
    grads = _backward(gradOutput, input, weight, offset, nothing, bias, dH, dW, padH, padW,
                      dilationH, dilationW, group, deformable_group, False)
    gradInput.copy_(grads[0])
    gradOffset.copy_(grads[2])
    # torchvision computes the gradient of the weight with these two, mmcv asks for it in a
    # second call, with the same buffer: it is kept there, for this gradOutput only.
    columns._grad_weight = weakref.ref(gradOutput), grads[1]


def deform_conv_backward_parameters(input: Tensor, offset: Tensor, gradOutput: Tensor,
                                    gradWeight: Tensor, columns: Tensor, ones: Tensor, kW: int,
                                    kH: int, dW: int, dH: int, padW: int, padH: int,
                                    dilationW: int, dilationH: int, group: int,
                                    deformable_group: int, scale: float,
                                    im2col_step: int) -> None:
    """Write the gradient of :func:`deform_conv_forward` for the weight, times ``scale``."""
    of, grad = columns.__dict__.pop('_grad_weight', (lambda: None, None))
    if of() is not gradOutput:
        nothing, bias = input.new_zeros(len(input), 1), input.new_zeros(len(gradWeight))
        # Of the weight only the shape matters to its own gradient.
        grad = _backward(gradOutput, input, gradWeight, offset, nothing, bias, dH, dW, padH, padW,
                         dilationH, dilationW, group, deformable_group, False)[1]
    gradWeight.copy_(grad * scale)


def modulated_deform_conv_forward(input: Tensor, weight: Tensor, bias: Tensor, ones: Tensor,
                                  offset: Tensor, mask: Tensor, output: Tensor, columns: Tensor,
                                  kernel_h: int, kernel_w: int, stride_h: int, stride_w: int,
                                  pad_h: int, pad_w: int, dilation_h: int, dilation_w: int,
                                  group: int, deformable_group: int, with_bias: bool) -> None:
    """Write the modulated deformable convolution of ``input`` to ``output``.

    Args:
        input: ``(B, C, H, W)``.
        weight: ``(O, C / group, kernel_h, kernel_w)``.
        bias: ``(O, )``, or anything if ``with_bias`` is False.
        ones, columns: Not used.
        offset: ``(B, 2 * deformable_group * kernel_h * kernel_w, H', W')``, y before x.
        mask: ``(B, deformable_group * kernel_h * kernel_w, H', W')``.
        output: ``(B, O, H', W')``.
        with_bias: Add the bias. The other numbers: see :func:`deform_conv_forward`.
    """
    bias = bias if with_bias else input.new_zeros(len(weight))
    output.copy_(_forward(input, weight, offset, mask, bias, stride_h, stride_w, pad_h, pad_w,
                          dilation_h, dilation_w, group, deformable_group, True))


def modulated_deform_conv_backward(
        input: Tensor, weight: Tensor, bias: Tensor, ones: Tensor, offset: Tensor, mask: Tensor,
        columns: Tensor, grad_input: Tensor, grad_weight: Tensor, grad_bias: Tensor,
        grad_offset: Tensor, grad_mask: Tensor, grad_output: Tensor, kernel_h: int,
        kernel_w: int, stride_h: int, stride_w: int, pad_h: int, pad_w: int, dilation_h: int,
        dilation_w: int, group: int, deformable_group: int, with_bias: bool) -> None:
    """Write the gradients of :func:`modulated_deform_conv_forward`."""
    fake = bias if with_bias else input.new_zeros(len(weight))
    grads = _backward(grad_output, input, weight, offset, mask, fake, stride_h, stride_w, pad_h,
                      pad_w, dilation_h, dilation_w, group, deformable_group, True)
    targets = grad_input, grad_weight, grad_offset, grad_mask, grad_bias
    for target, grad in zip(targets[:None if with_bias else 4], grads):
        target.copy_(grad)
