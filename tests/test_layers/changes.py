"""Linear layers whose call is more than their weight and bias."""
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, weight_norm


def attach(register, hook=lambda *args: None):
    """A hook on a module that nobody removes."""
    return lambda module: getattr(module, register)(hook)


class Lora(nn.Module):
    """A wrapper that shows the weight of what it wraps."""

    def __init__(self, base):
        super().__init__()
        self.base, self.weight, self.bias = base, base.weight, base.bias

    def forward(self, x):
        return self.base(x) + x


def patch(linear):
    linear.forward = lambda x, forward=linear.forward: 2 * forward(x)


def quantise_like(linear):
    class Quantised(nn.Parameter):
        pass
    linear.weight = Quantised(linear.weight.detach())


#: Ways in which a call of a linear layer becomes more than its two parameters.
CHANGES = dict(
    forward_hook=attach('register_forward_hook'),
    forward_pre_hook=attach('register_forward_pre_hook'),
    backward_hook=attach('register_full_backward_hook'),
    backward_pre_hook=attach('register_full_backward_pre_hook'),
    lora=Lora, patch=patch, quantise_like=quantise_like,
    prune=lambda linear: prune.l1_unstructured(linear, 'weight', 0.5),
    weight_norm=weight_norm,
    parametrization=parametrizations.weight_norm,
    dynamic=lambda linear: torch.ao.quantization.quantize_dynamic(
        nn.Sequential(linear), {nn.Linear})[0])
