"""The one rule for reading a module's weights instead of calling the module."""
from torch import nn
from torch.nn.modules import module as torch_module

__all__ = ['is_plain', 'runs_own_forward']


def is_plain(module: nn.Module, kind: type) -> bool:
    """Return True if calling a module runs its class's own forward on its own parameters.

    A fused operator reads the weights of the modules it stands for and never calls them.
    It may do so only for plain modules: a hook, a patched ``forward``, a LoRA wrapper, pruning,
    weight norm, a parametrization or a quantised weight act when the module is called.

    Args:
        module: The module that would be bypassed.
        kind: The class it must be of; a subclass may compute something else.
    """
    if not runs_own_forward(module, kind):
        return False
    for parameter in module._parameters.values():
        # Subclasses of Parameter are quantised or sharded weights, plain tensors those of
        # torch.func.functional_call: the operators have no rule for either.
        if parameter is not None and type(parameter) is not nn.Parameter:
            return False
    return True


def runs_own_forward(module: nn.Module, kind: type) -> bool:
    """Return True if calling a module of a class runs its class's own forward and nothing else.

    That is :func:`is_plain` without the parameters, which an export replaces.
    """
    own = module.__dict__
    return not (type(module) is not kind or 'forward' in own
                or own['_forward_pre_hooks'] or own['_forward_hooks']
                or own['_backward_pre_hooks'] or own['_backward_hooks']
                or torch_module._global_forward_pre_hooks or torch_module._global_forward_hooks
                or torch_module._global_backward_pre_hooks or torch_module._global_backward_hooks)
