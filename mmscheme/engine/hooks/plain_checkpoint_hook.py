"""Checkpoints that weights-only loading can read."""
from typing import Any, Dict

from mmengine.hooks import Hook

from mmscheme.registry import HOOKS
from mmscheme.utils.checkpoint_io import make_plain, restore_plain

__all__ = ['PlainCheckpointHook']


@HOOKS.register_module()
class PlainCheckpointHook(Hook):
    """Write checkpoints that ``torch.load`` reads with its safe default.

    mmengine stores its log history as objects, which torch >= 2.6 refuses. The hook
    stores it as tensors and gives the objects back when a run resumes.
    """

    def before_save_checkpoint(self, runner: Any, checkpoint: Dict[str, Any]) -> None:
        """Make everything but weights and optimizer plain."""
        for key in ('meta', 'message_hub', 'param_schedulers'):
            if key in checkpoint:
                checkpoint[key] = make_plain(checkpoint[key])

    def after_load_checkpoint(self, runner: Any, checkpoint: Dict[str, Any]) -> None:
        """Rebuild the log history."""
        hub = checkpoint.get('message_hub')
        if isinstance(hub, dict) and isinstance(hub.get('log_scalars'), dict):
            hub['log_scalars'] = restore_plain(hub['log_scalars'])
