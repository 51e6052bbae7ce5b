"""The Triton kernels: their arithmetic in the interpreter, their code for a GPU."""
import json
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY, run
from tests.test_ops.interpreted import CASES

pytest.importorskip('triton')
TOLERANCE = {'float32': 5e-6, 'bfloat16': 2e-2, 'float16': 4e-3}


def test_output_and_gradients_in_the_interpreter():
    out = run(sys.executable, '-m', 'tests.test_ops.interpreted', TRITON_INTERPRET='1',
              PYTHONPATH=str(REPOSITORY))
    found = json.loads(out.splitlines()[-1])
    assert len(found) == len(CASES)
    for case, case_errors in zip(CASES, found):
        assert max(case_errors) < TOLERANCE[case[-1]], (case, case_errors)


def test_a_trial_keeps_kernels_away_that_fail():
    code = '''
import torch
from mmscheme.ops import triton_mlp
with torch.inference_mode():
    print(triton_mlp.trial(torch.device('cpu')))
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
    assert lines == ['None', 'its Triton kernels are off by 0.1 in a trial',
                     'a trial of its Triton kernels ended with RuntimeError: out of resource']


def test_kernels_compile_for_a_gpu_that_is_not_there():
    code = '''
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from mmscheme.ops import triton_mlp
for kernel in (triton_mlp._forward_kernel, triton_mlp._input_kernel, triton_mlp._weight_kernel):
    names = kernel.arg_names
    fixed = dict(ACT='gelu', HAS_B1=True, HAS_B2=True, WIDEN=False, PRECISION='ieee', BLOCK_C=32,
                 BLOCK_M=64, BLOCK_H=32, sxc=1, syc=1, sgc=1, sdc=1)
    fixed = {n: v for n, v in fixed.items() if n in names}
    sums = ('dw1_ptr', 'db1_ptr', 'dw2_ptr', 'dscale_ptr', 'dshift_ptr')
    kinds = {n: 'constexpr' if n in fixed else '*fp32' if n in sums else
             '*bf16' if n.endswith('_ptr') else 'i32' for n in names}
    source = ASTSource(kernel, kinds, fixed)
    made = triton.compile(source, target=GPUTarget('cuda', 90, 32), options=dict(num_warps=4))
    print(made.metadata.shared, 'wgmma' in made.asm['ptx'], len(made.asm['cubin']) > 0)
'''
    result = subprocess.run([sys.executable, '-c', code], cwd=REPOSITORY, text=True,
                            capture_output=True)
    lines = [line.split() for line in result.stdout.splitlines()]
    assert len(lines) == 3, result.stderr[-2000:]
    for shared, tensor_cores, binary in lines:
        assert int(shared) < 99 * 1024 and tensor_cores == binary == 'True'
