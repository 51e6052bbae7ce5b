"""The steps of mmcv's synchronised batch norm between its communications."""
from typing import Union

from torch import Tensor

__all__ = [
    'sync_bn_backward_data', 'sync_bn_backward_param', 'sync_bn_forward_mean',
    'sync_bn_forward_output', 'sync_bn_forward_var'
]


def sync_bn_forward_mean(input: Tensor, mean: Tensor) -> None:
    """Write the means of the channels of ``input`` ``(B, C, N)`` to ``mean``."""
    mean.copy_(input.float().mean((0, 2)))


def sync_bn_forward_var(input: Tensor, mean: Tensor, var: Tensor) -> None:
    """Write the mean squared distances from ``mean`` to ``var``."""
    var.copy_((input.float() - mean[:, None]).square().mean((0, 2)))


def sync_bn_forward_output(input: Tensor, mean: Tensor, var: Tensor, weight: Tensor,
                           bias: Tensor, running_mean: Tensor, running_var: Tensor, norm: Tensor,
                           std: Tensor, output: Tensor, eps: float,
                           momentum: Union[float, Tensor], group_size: int) -> None:
    """Write normalised and scaled values, and update the running statistics.

    Args:
        input: ``(B, C, N)``.
        mean, var: ``(C, )``, of all processes.
        weight, bias: ``(C, )`` or empty.
        running_mean, running_var: ``(C, )`` or empty.
        norm: ``(B, C, N)``, receives the normalised values.
        std: ``(C, )``, receives the standard deviations.
        output: ``(B, C, N)``.
        eps: Added to the variance.
        momentum: Share of these statistics in the running ones.
        group_size: Number of processes.
    """
    std.copy_((var + eps).sqrt())
    norm.copy_((input.float() - mean[:, None]) / std[:, None])
    output.copy_(norm * weight[:, None] + bias[:, None] if weight.numel() else norm)
    if running_mean.numel():
        count = input.shape[0] * input.shape[2] * group_size
        unbiased = var * count / (count - 1) if count > 1 else var
        running_mean.copy_(momentum * mean + (1 - momentum) * running_mean)
        running_var.copy_(momentum * unbiased + (1 - momentum) * running_var)


def sync_bn_backward_param(grad_output: Tensor, norm: Tensor, grad_weight: Tensor,
                           grad_bias: Tensor) -> None:
    """Write the gradients of weight and bias."""
    grad_weight.copy_((grad_output.float() * norm).sum((0, 2)))
    grad_bias.copy_(grad_output.float().sum((0, 2)))


def sync_bn_backward_data(grad_output: Tensor, weight: Tensor, grad_weight: Tensor,
                          grad_bias: Tensor, norm: Tensor, std: Tensor,
                          grad_input: Tensor) -> None:
    """Write the gradient of the input, from those of weight and bias of all processes."""
    count = grad_output.shape[0] * grad_output.shape[2]
    shared = (grad_weight[:, None] * norm + grad_bias[:, None]) / count
    grad_input.copy_((weight / std)[:, None] * (grad_output.float() - shared))
