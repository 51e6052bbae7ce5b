"""Randomness as a function of where training is.

Nothing is stored: before each sample and each iteration all generators are seeded from the run's
seed and the place. A run that resumes, with workers or without, draws what it would have drawn.
"""
import random
from contextlib import contextmanager
from typing import Iterator

import numpy as np
import torch

__all__ = ['ITERATION', 'ORDER', 'SAMPLE', 'keep_random_numbers', 'seed_all']

# The uses of random numbers; each has streams of its own.
SAMPLE, ITERATION, ORDER = range(3)


def seed_all(*key: int) -> None:
    """Seed the generators of python, numpy and torch in this process.

    Args:
        key: Numbers from 0 on; different ones give unrelated streams.
    """
    a, b, c, d = (int(v) for v in np.random.SeedSequence(key).generate_state(4))
    random.seed(a)
    np.random.seed(b)
    # torch.manual_seed would note a call for later, with a stack trace, where CUDA is not in use.
    torch.default_generator.manual_seed(c << 31 | d >> 1)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(c << 31 | d >> 1)


@contextmanager
def keep_random_numbers() -> Iterator[None]:
    """Draw random numbers on the CPU without changing those that come after."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
