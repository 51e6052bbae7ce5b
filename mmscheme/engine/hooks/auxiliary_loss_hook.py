"""Auxiliary losses of layers in the losses of a model."""
from contextlib import ExitStack
from typing import Any, Dict

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from mmscheme.layers import SharedExpertFFN, auxiliary_losses
from mmscheme.registry import HOOKS

__all__ = ['AuxiliaryLossHook']


@HOOKS.register_module()
class AuxiliaryLossHook(Hook):
    """Add the losses of shared-expert FFNs to the loss dict of any model.

    They appear there, and in the log, as ``loss_importance`` and ``loss_load``. Heads and models
    do not change: torch calls the hook after the model's forward, inside DistributedDataParallel
    and autocast. Models without such layers are left alone.
    """

    def __init__(self) -> None:
        self._hooks = ExitStack()
        self._call = ExitStack()
        self._found: Dict[str, Tensor] = {}

    def before_train(self, runner: Any) -> None:
        """Attach to the model."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if any(isinstance(m, SharedExpertFFN) for m in model.modules()):
            for handle in (model.register_forward_pre_hook(self._begin, with_kwargs=True),
                           model.register_forward_hook(self._end, with_kwargs=True)):
                self._hooks.callback(handle.remove)

    def after_train(self, runner: Any) -> None:
        """Detach."""
        self._hooks.close()

    def _begin(self, model: nn.Module, args: Any, kwargs: Dict[str, Any]) -> None:
        if kwargs.get('mode') == 'loss':
            self._found = self._call.enter_context(auxiliary_losses(model))

    def _end(self, model: nn.Module, args: Any, kwargs: Dict[str, Any], losses: Any) -> Any:
        if kwargs.get('mode') != 'loss':
            return losses
        self._call.close()
        return {**losses, **self._found}
