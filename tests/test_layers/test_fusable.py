"""The rule that says which modules may be bypassed."""
import pytest
import torch
from torch import nn

from mmscheme.layers.fusable import is_plain
from tests.test_layers.changes import CHANGES


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
