"""Values of compiled mmcv, kept in one small file, and how tensors are compared with them."""
import json
from pathlib import Path

import numpy as np
import torch

FILE = Path(__file__).with_suffix('.npz')


def read():
    """Tensors of each case by name."""
    with np.load(FILE) as file:
        values, shapes = torch.from_numpy(file['values']), json.loads(str(file['shapes']))
    tensors, start = {}, 0
    for name, parts in shapes.items():
        tensors[name] = []
        for dtype, shape in parts:
            end = start + int(np.prod(shape))
            tensors[name].append(values[start:end].view(shape).to(getattr(torch, dtype)))
            start = end
    return tensors


def write(results):
    """Keep tensors by name; all are exact as float32."""
    shapes = {name: [(str(x.dtype).split('.')[1], list(x.shape)) for x in tensors]
              for name, tensors in results.items()}
    values = torch.cat([x.flatten().float() for tensors in results.values() for x in tensors])
    np.savez_compressed(FILE, values=values.numpy(), shapes=json.dumps(shapes))


def close(found, expected, tolerance=1e-5):
    """Check that outputs and gradients agree, relative to the largest value of each."""
    assert len(found) == len(expected)
    for mine, other in zip(found, expected):
        assert mine.shape == other.shape and mine.dtype == other.dtype
        if mine.is_floating_point():
            scale = float(other.abs().nan_to_num().max()) if other.numel() else 1.
            torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance * scale,
                                       equal_nan=True)
        else:
            assert torch.equal(mine, other)
