"""The Triton kernels: their arithmetic in the interpreter, their code for a GPU."""
import json
import sys

import pytest

from tests.test_ops.interpreted import CASES
from tests.utils import REPOSITORY, run

pytest.importorskip('triton')
TOLERANCE = {'float32': 5e-6, 'bfloat16': 2e-2, 'float16': 4e-3}


@pytest.mark.slow
def test_output_and_gradients_in_the_interpreter():
    out = run(sys.executable, '-m', 'tests.test_ops.interpreted', TRITON_INTERPRET='1',
              PYTHONPATH=str(REPOSITORY))
    found = json.loads(out.splitlines()[-1])
    assert len(found) == len(CASES)
    for case, case_errors in zip(CASES, found):
        assert max(case_errors) < TOLERANCE[case[-1]], (case, case_errors)


@pytest.mark.slow
def test_a_trial_keeps_kernels_away_that_fail():
    code = '''
import torch
from mmscheme.ops import triton_mlp
with torch.inference_mode():
    print(triton_mlp.trial(torch.device('cpu')))
from torch.utils.checkpoint import checkpoint
def block(x):
    triton_mlp.trial.cache_clear()
    print(triton_mlp.trial(torch.device('cpu')))
    return x.square()
x = torch.ones(3, requires_grad=True)
checkpoint(block, x, use_reentrant=False).sum().backward()
print(x.grad.tolist())
right = triton_mlp.backward
def broken(*args):
    raise RuntimeError('out of resource\\nand more')
for wrong in (lambda *args: [1.1 * g for g in right(*args)], broken):
    triton_mlp.trial.cache_clear()
    triton_mlp.backward = wrong
    print(triton_mlp.trial(torch.device('cpu')))
'''
    lines = run(sys.executable, '-c', code, TRITON_INTERPRET='1',
                PYTHONPATH=str(REPOSITORY)).splitlines()
    # Once in the forward pass of a checkpointed block, once where that is computed again.
    assert lines == ['None', 'None', 'None', '[2.0, 2.0, 2.0]',
                     'its Triton kernels are off by 0.1 in a trial',
                     'a trial of its Triton kernels ended with RuntimeError: out of resource']


@pytest.mark.slow
@pytest.mark.parametrize('capabilities, widths', [
    ('90', '80'), ('90,80', '16,48,64,80,96,128,192')])
def test_compiled_for_a_gpu_that_is_not_there(capabilities, widths):
    out = run(sys.executable, '-m', 'tests.test_ops.compiled', capabilities, widths,
              PYTHONPATH=str(REPOSITORY))
    found = [json.loads(line) for line in out.splitlines() if line.startswith('{')]
    assert len(found) == 3 * len(capabilities.split(',')) * len(widths.split(','))
    for kernel in found:
        # As many multiply-adds as the blocks have; padded to 128, groups of 80 need 1.6 times.
        assert kernel['macs'] == kernel['needed'], kernel
        assert kernel['spilled'] == 0 and kernel['shared'] < 200 * 1024, kernel


@pytest.mark.slow
def test_tiles_that_do_not_fit_give_way_to_smaller_ones():
    code = '''
import torch
from triton.runtime.errors import OutOfResources
from mmscheme.ops import triton_mlp as t
tried = []
class Kernel:
    def __getitem__(self, grid):
        def launch(*args, BLOCK_M, BLOCK_H, **constants):
            tried.append((BLOCK_M, BLOCK_H))
            if BLOCK_M * BLOCK_H > 32 * 32:
                raise OutOfResources(200000, 100000, 'shared memory')
        return launch
constants = dict(C=64, H=512, EXACT=False, PRECISION='ieee')
kernel = Kernel()
for _ in range(2):
    t._launch(kernel, lambda tile: (1, ), torch.zeros(1), (), constants)
print(tried)
'''
    out = run(sys.executable, '-c', code, TRITON_INTERPRET='1', PYTHONPATH=str(REPOSITORY))
    assert out.splitlines()[-1] == '[(64, 64), (64, 32), (32, 32), (32, 32)]'
