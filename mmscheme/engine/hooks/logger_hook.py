"""mmengine's log, with one process that writes the metrics of a test."""
from typing import Any, Dict, Optional

from mmengine.dist import is_main_process
from mmengine.hooks import LoggerHook as MMEngineLoggerHook

from mmscheme.registry import HOOKS

__all__ = ['LoggerHook']


@HOOKS.register_module()
class LoggerHook(MMEngineLoggerHook):
    """mmengine's ``LoggerHook`` with one writer of the metrics of a test.

    mmengine's processes all write the same file at once. Their texts differ in length because
    of the times in them, so the file may end with the rest of a longer one and be no JSON.
    """

    def after_test_epoch(self, runner: Any, metrics: Optional[Dict[str, float]] = None) -> None:
        """Log the metrics, and write them in the first process."""
        if is_main_process():
            super().after_test_epoch(runner, metrics)
