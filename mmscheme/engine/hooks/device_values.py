"""Values that stay on the device until the log is written, because reading waits for a GPU."""
from typing import Any, List, Sequence

import torch
from mmengine.hooks import LoggerHook
from torch import Tensor

__all__ = ['is_log_iter', 'read']


def is_log_iter(runner: Any, batch_idx: int) -> bool:
    """Return True for the iterations after which values are read from the device.

    Those are the iterations of the log, and the last one of an epoch or of training.
    """
    loggers: Sequence[Any] = [h for h in runner.hooks if isinstance(h, LoggerHook)]
    return (any((batch_idx + 1) % interval == 0 for interval in
                ([logger.interval for logger in loggers] or [10]))
            or batch_idx + 1 == len(runner.train_dataloader)
            or runner.iter + 1 == runner.max_iters)


def read(values: Sequence[Tensor]) -> List[float]:
    """Read tensors of any shape from the device at once.

    Returns:
        All their elements.
    """
    if not values:
        return []
    device = values[0].device
    return torch.cat([v.detach().to(device, torch.float32).reshape(-1) for v in values]).tolist()
