"""Silence."""
import logging
from contextlib import contextmanager
from typing import Iterator

from mmengine.logging import MMLogger

__all__ = ['quiet']


def _disable(level: int) -> None:
    logging.disable(level)
    logger = MMLogger.get_current_instance()
    # Because mmengine's loggers remember which levels are on, until one of them is set.
    logger.setLevel(logger.level)


@contextmanager
def quiet(level: int = logging.WARNING) -> Iterator[None]:
    """Silence log records up to a level, from whichever logger; nests."""
    before = logging.root.manager.disable
    _disable(max(before, level))
    try:
        yield
    finally:
        _disable(before)
