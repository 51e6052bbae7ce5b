"""Sigmoid and softmax focal loss."""
from typing import Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import precise

__all__ = [
    'sigmoid_focal_loss_backward', 'sigmoid_focal_loss_forward', 'softmax_focal_loss_backward',
    'softmax_focal_loss_forward'
]

# mmcv's kernels take logarithms of at least the smallest normal float32.
_LEAST = torch.finfo(torch.float32).tiny
_LEAST_LOGARITHM = -87.33654475055310


def _check(target: Tensor, classes: int) -> None:
    """Refuse labels above the background's, on a GPU without waiting for it."""
    torch._assert_async((target <= classes).all(),
                        f'target: labels up to {classes} (no object) expected, found a larger one')


def _sigmoid_terms(input: Tensor, target: Tensor, alpha: float) -> Tuple[Tensor, ...]:
    """Return sign and factor of each element, the wrong probability and the right one's log."""
    classes = torch.arange(input.shape[1], device=input.device)
    positive = target[:, None] == classes
    x = precise(input)
    sign = torch.where(positive, 1., -1.).to(x.dtype)
    factor = torch.where(positive, alpha, 1 - alpha).to(x.dtype)
    return (sign, factor, (-sign * x).sigmoid(),
            F.logsigmoid(sign * x).clamp(min=_LEAST_LOGARITHM))


def sigmoid_focal_loss_forward(input: Tensor, target: Tensor, weight: Tensor, output: Tensor,
                               gamma: float, alpha: float) -> None:
    """Write the sigmoid focal loss of each element to ``output``.

    Args:
        input: ``(N, C)`` logits.
        target: ``(N, )`` classes; any other number means no object.
        weight: ``(C, )`` weights of the classes, or empty.
        output: ``(N, C)``.
        gamma: Exponent of the wrong probability.
        alpha: Weight of the positive elements, 1 - alpha that of the negative ones.
    """
    if not input.numel():
        return
    _check(target, input.shape[1])
    _, factor, wrong, logarithm = _sigmoid_terms(input, target, alpha)
    loss = -factor * wrong.pow(gamma) * logarithm
    output.copy_(loss * weight[target][:, None] if weight.numel() else loss)


def sigmoid_focal_loss_backward(input: Tensor, target: Tensor, weight: Tensor,
                                grad_input: Tensor, gamma: float, alpha: float) -> None:
    """Write the derivative of each element of the sigmoid focal loss to ``grad_input``."""
    sign, factor, wrong, logarithm = _sigmoid_terms(input, target, alpha)
    grad = -sign * factor * wrong.pow(gamma) * (wrong - gamma * (1 - wrong) * logarithm)
    grad_input.copy_(grad * weight[target][:, None] if weight.numel() else grad)


def _softmax_terms(input: Tensor, target: Tensor, weight: Tensor) -> Tuple[Tensor, ...]:
    """Return the probability of each target, its logarithm and its weight."""
    known = target >= 0
    labels = target.clamp(min=0)
    right = precise(input).gather(1, labels[:, None])[:, 0]
    weights = known.to(right.dtype)
    if weight.numel():
        weights = weights * weight[labels]
    return right, right.clamp(min=_LEAST).log(), weights


def softmax_focal_loss_forward(input: Tensor, target: Tensor, weight: Tensor, output: Tensor,
                               gamma: float, alpha: float) -> None:
    """Write the softmax focal loss of each sample to ``output``.

    Args:
        input: ``(N, C)`` probabilities.
        target: ``(N, )`` classes; negative ones are left out.
        weight: ``(C, )`` weights of the classes, or empty.
        output: ``(N, )``.
        gamma: Exponent of the wrong probability.
        alpha: Factor of the loss.
    """
    if input.numel():
        right, logarithm, weights = _softmax_terms(input, target, weight)
        output.copy_(-alpha * (1 - right).pow(gamma) * logarithm * weights)


def softmax_focal_loss_backward(input: Tensor, target: Tensor, weight: Tensor, buff: Tensor,
                                grad_input: Tensor, gamma: float, alpha: float) -> None:
    """Write the derivative of the softmax focal loss by the logits to ``grad_input``."""
    if not input.numel():
        return
    right, logarithm, weights = _softmax_terms(input, target, weight)
    wrong = 1 - right
    slope = alpha * weights * (gamma * wrong.pow(gamma - 1) * right * logarithm -
                               wrong.pow(gamma))
    classes = torch.arange(input.shape[1], device=input.device)
    hit = (target[:, None] == classes).to(slope.dtype)
    grad_input.copy_(slope[:, None] * (hit - precise(input)))
