"""mmengine's record of the losses, read from the device when they are logged."""
from typing import Any, Dict, List, Optional

from mmengine.hooks import RuntimeInfoHook as _RuntimeInfoHook
from torch import Tensor

from mmscheme.registry import HOOKS

from .device_values import is_log_iter, read

__all__ = ['RuntimeInfoHook']


@HOOKS.register_module()
class RuntimeInfoHook(_RuntimeInfoHook):
    """mmengine's ``RuntimeInfoHook`` without its wait for the GPU in every iteration.

    The message hub gets the losses of all iterations in order, but only when the log or a
    checkpoint is written. A hook that reads them after every iteration needs mmengine's:
    ``default_hooks.runtime_info.type='RuntimeInfoHook'``.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pending: List[Dict[str, Any]] = []

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Optional[Any] = None,
                         outputs: Optional[Dict[str, Any]] = None) -> None:
        """Keep the losses; pass them on if the log is written.

        Raises:
            ValueError: One of them is not a single value.
        """
        for name, value in (outputs or {}).items():
            if isinstance(value, Tensor) and value.numel() != 1:
                raise ValueError(f'{name}: expected one value of train_step for the log, found a '
                                 f'tensor of shape {tuple(value.shape)}')
        # Copies, because a model may change in place what it returned.
        self._pending.append({k: v.detach().clone() if isinstance(v, Tensor) else v
                              for k, v in (outputs or {}).items()})
        if is_log_iter(runner, batch_idx):
            self._pass_on(runner)

    def before_save_checkpoint(self, runner: Any, checkpoint: Dict[str, Any]) -> None:
        """Bring the log in the checkpoint up to date."""
        if self._pending:
            self._pass_on(runner)
            checkpoint['message_hub'] = runner.message_hub.state_dict()

    def after_train(self, runner: Any) -> None:
        """Pass on the losses that are left."""
        self._pass_on(runner)
        super().after_train(runner)

    def _pass_on(self, runner: Any) -> None:
        pending, self._pending = self._pending, []
        values = iter(read([v for outputs in pending for v in outputs.values()
                            if isinstance(v, Tensor)]))
        for outputs in pending:
            super().after_train_iter(runner, 0, None, {
                k: next(values) if isinstance(v, Tensor) else v for k, v in outputs.items()})
