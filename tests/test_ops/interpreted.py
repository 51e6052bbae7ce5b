"""Errors of the Triton kernels in Triton's interpreter; run with TRITON_INTERPRET=1."""
import json

import torch

from mmscheme.ops import block_diagonal_mlp, triton_mlp
from tests.test_ops.reference import errors, make

# Layout, channels, hidden, groups, activation, bias, dtype.
CASES = [
    ('channels_first', 12, 60, 4, 'gelu', True, 'float32'),
    ('channels_last', 34, 70, 2, 'gelu', False, 'float32'),
    ('tokens', 18, 54, 3, 'silu', True, 'float32'),
    ('view', 34, 70, 2, 'relu', True, 'float32'),
    ('channels_first', 20, 40, 1, 'star_relu', True, 'float32'),
    ('channels_last', 12, 60, 4, 'gelu', True, 'bfloat16'),
    ('channels_first', 12, 60, 4, 'star_relu', True, 'float16'),
]
# Groups of these widths: padded ones, one and two tiles wide.
WIDTHS = (16, 24, 48, 64, 80, 96, 128, 192)
CASES += [(layout, 2 * width, 2 * hidden, 2, 'gelu', True, dtype)
          for width in WIDTHS for layout, hidden, dtype in (
              ('channels_last', 72, 'float32'), ('tokens', 136, 'bfloat16'),
              ('channels_first', 40, 'float16'))]

if __name__ == '__main__':
    triton_mlp._PART_TOKENS = 40  # several parts of few tokens
    torch.manual_seed(0)
    found = []
    for layout, channels, hidden, groups, act, bias, dtype in CASES:
        inputs = make(layout, channels, hidden, groups, act, bias, getattr(torch, dtype))
        with torch.no_grad():
            for i in (1, 3):  # outputs of about one, as in a network
                inputs[i].div_(inputs[i].shape[1]**0.5)
        found.append(errors(block_diagonal_mlp, inputs, groups, act, implementation='triton'))
    print(json.dumps(found))
