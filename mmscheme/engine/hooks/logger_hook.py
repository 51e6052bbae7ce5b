"""mmengine's log, with one process that writes the metrics of a test."""
from typing import Any, Dict, Optional

from mmengine.dist import is_main_process
from mmengine.hooks import LoggerHook as MMEngineLoggerHook

from mmscheme.registry import HOOKS

__all__ = ['LoggerHook']


@HOOKS.register_module()
class LoggerHook(MMEngineLoggerHook):
    """mmengine's ``LoggerHook``, where all processes write one file of metrics at once.

    What they write differs in length, for the times in it do, so that the end of a longer
    text may stay behind a shorter one and the file is no JSON.
    """

    def after_test_epoch(self, runner: Any, metrics: Optional[Dict[str, float]] = None) -> None:
        """Logs the metrics, and writes them in the first process."""
        if is_main_process():
            super().after_test_epoch(runner, metrics)
