"""Silence."""
import logging
from contextlib import contextmanager
from typing import Iterator

__all__ = ['quiet']


@contextmanager
def quiet(level: int = logging.WARNING) -> Iterator[None]:
    """Without log records up to a level, from whichever logger; nests."""
    before = logging.root.manager.disable
    logging.disable(max(before, level))
    try:
        yield
    finally:
        logging.disable(before)
