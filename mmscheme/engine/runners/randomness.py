"""Randomness as a function of where training is.

Nothing is stored: before each sample and each iteration all generators are seeded from the run's
seed and the place. A run that resumes, with workers or without, draws what it would have drawn.
"""
import random

import numpy as np
import torch

__all__ = ['ITERATION', 'ORDER', 'SAMPLE', 'seed_all']

# What is seeded; each has streams of its own.
SAMPLE, ITERATION, ORDER = range(3)


def seed_all(*key: int) -> None:
    """Seeds the generators of python, numpy and torch in this process.

    Args:
        key: Numbers from 0 on; other ones give unrelated streams.
    """
    a, b, c, d = (int(v) for v in np.random.SeedSequence(key).generate_state(4))
    random.seed(a)
    np.random.seed(b)
    # torch.manual_seed would note a call for later, with a stack trace, where CUDA is not in use.
    torch.default_generator.manual_seed(c << 31 | d >> 1)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(c << 31 | d >> 1)
