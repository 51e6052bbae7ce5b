"""Multi-scale deformable attention."""
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ['ms_deform_attn_backward', 'ms_deform_attn_forward']


def _attention(value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor,
               attention: Tensor) -> Tensor:
    """Return what :func:`ms_deform_attn_forward` does, differentiable.

    Each query and head takes a weighted sum of rows of ``value``, four for each sample: an
    ``embedding_bag``, which reads the rows in place and does not need the sizes of the maps
    on the host.
    """
    batch, keys, heads, dims = value.shape
    if value.dtype in (torch.float16, torch.bfloat16) and not value.is_cuda:
        value = value.float()
    exact = value.dtype if value.dtype == torch.float64 else torch.float32
    height, width = shapes.view(1, 1, 1, -1, 1, 2).unbind(-1)
    x = locations[..., 0].to(exact) * width - 0.5
    y = locations[..., 1].to(exact) * height - 0.5
    left, top = x.detach().floor(), y.detach().floor()
    image = torch.arange(batch, device=value.device).view(-1, 1, 1, 1, 1) * keys
    head = torch.arange(heads, device=value.device).view(-1, 1, 1)
    rows, weights = [], []
    for down in (0, 1):
        for across in (0, 1):
            column, row = left + across, top + down
            weight = ((x - left if across else left + 1 - x) *
                      (y - top if down else top + 1 - y)) * attention.to(exact)
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            key = torch.where(inside, row * width + column, 0).long()
            rows.append((image + starts.view(-1, 1) + key) * heads + head)
            weights.append(torch.where(inside, weight, 0))
    samples = 4 * attention.shape[3] * attention.shape[4]
    output = F.embedding_bag(
        torch.stack(rows, -1).view(-1, samples), value.reshape(-1, dims), mode='sum',
        per_sample_weights=torch.stack(weights, -1).view(-1, samples).to(value.dtype))
    return output.view(batch, -1, heads * dims)


def ms_deform_attn_forward(value: Tensor, value_spatial_shapes: Tensor,
                           value_level_start_index: Tensor, sampling_locations: Tensor,
                           attention_weights: Tensor, im2col_step: int) -> Tensor:
    """Return the attended values of all heads, ``(B, queries, heads * dims)``.

    Args:
        value: ``(B, keys, heads, dims)``, the pixels of all levels.
        value_spatial_shapes: ``(levels, 2)``, height and width.
        value_level_start_index: ``(levels, )``, where each level starts among the keys.
        sampling_locations: ``(B, queries, heads, levels, points, 2)``, x and y from 0 to 1.
        attention_weights: ``(B, queries, heads, levels, points)``.
        im2col_step: Not used.
    """
    return _attention(value, value_spatial_shapes, value_level_start_index, sampling_locations,
                      attention_weights).to(value.dtype)


def ms_deform_attn_backward(value: Tensor, value_spatial_shapes: Tensor,
                            value_level_start_index: Tensor, sampling_locations: Tensor,
                            attention_weights: Tensor, grad_output: Tensor, grad_value: Tensor,
                            grad_sampling_loc: Tensor, grad_attn_weight: Tensor,
                            im2col_step: int) -> None:
    """Write the gradients of :func:`ms_deform_attn_forward`."""
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_()
                  for x in (value, sampling_locations, attention_weights)]
        output = _attention(inputs[0], value_spatial_shapes, value_level_start_index, *inputs[1:])
        grads = torch.autograd.grad(output, inputs, grad_output.to(output.dtype))
    for target, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads):
        target.copy_(grad)
