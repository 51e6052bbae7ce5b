"""The rule that says which modules may be bypassed."""
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, weight_norm

from mmscheme.layers.fusable import is_plain


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


@pytest.mark.parametrize('change', CHANGES)
def test_a_changed_module_is_not_plain(change):
    linear = nn.Linear(4, 4)
    assert is_plain(linear, nn.Linear)
    other = CHANGES[change](linear)
    assert not is_plain(other if isinstance(other, nn.Module) else linear, nn.Linear)


@pytest.mark.parametrize('register', ['forward_pre_hook', 'forward_hook', 'full_backward_pre_hook',
                                      'full_backward_hook'])
def test_a_global_hook_concerns_every_module(register):
    handle = getattr(nn.modules.module, f'register_module_{register}')(lambda *args: None)
    try:
        assert not is_plain(nn.Linear(4, 4), nn.Linear)
    finally:
        handle.remove()
    assert is_plain(nn.Linear(4, 4), nn.Linear)


def test_a_subclass_is_something_else():
    class Other(nn.Linear):
        pass

    assert not is_plain(Other(4, 4), nn.Linear) and is_plain(Other(4, 4), Other)


def test_the_rule_is_traced_by_torch_compile():
    class Twice(nn.Module):

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            if is_plain(self.linear, nn.Linear):
                return 2 * nn.functional.linear(x, self.linear.weight, self.linear.bias)
            return self.linear(x)

    module, x = Twice(), torch.randn(2, 4)
    compiled = torch.compile(module, fullgraph=True, backend='eager')
    assert torch.allclose(compiled(x), 2 * module.linear(x))
    functional = torch.func.functional_call(module, dict(module.state_dict()), (x, ))
    assert torch.allclose(functional, module.linear(x))
