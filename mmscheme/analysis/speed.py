"""How many images a second a model predicts."""
import time
from copy import deepcopy
from typing import NamedTuple, Optional, Tuple

import numpy as np
import torch
from mmengine import Config

from mmscheme.models.loading import build_model

from .random_batch import input_shape, random_batch

__all__ = ['Throughput', 'measure_throughput']


class Throughput(NamedTuple):
    """Images a second.

    Attributes:
        median, low, high: Over the runs; the middle half lies between the last two.
        runs: How many there were.
        device: Where.
    """
    median: float
    low: float
    high: float
    runs: int
    device: str


def measure_throughput(cfg: Config, shape: Optional[Tuple[int, int]] = None, batch_size: int = 1,
                       runs: int = 10) -> Throughput:
    """Times predictions of a config's model, random weights on random images.

    Preprocessing of the model and its heads are in it, reading files is not.

    Args:
        cfg: A config of mmsegmentation, mmdetection or mmpretrain.
        shape: Height and width of the images; by default what the config tests with.
        batch_size: Images a run.
        runs: How many are timed, after two that are not.

    Returns:
        Images a second.
    """
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    model = build_model(cfg).to(device)
    batch = random_batch(cfg, shape or input_shape(cfg), batch_size)
    seconds = []
    with torch.no_grad():
        for _ in range(runs + 2):
            data = deepcopy(batch)
            start = time.perf_counter()
            model.test_step(data)
            if device.type == 'cuda':
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    rates = batch_size / np.asarray(seconds[2:])
    low, median, high = np.percentile(rates, [25, 50, 75])
    name = (torch.cuda.get_device_name() if device.type == 'cuda' else
            f'CPU, {torch.get_num_threads()} threads')
    return Throughput(float(median), float(low), float(high), runs, name)
