"""The Triton kernels compiled for GPUs that are not there, one line of JSON a kernel and width.

Arguments: compute capabilities and widths, each as numbers with commas between.
"""
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mmscheme.ops import triton_mlp

PTXAS = Path(triton.__file__).parent / 'backends' / 'nvidia' / 'bin' / 'ptxas'
KERNELS = (triton_mlp._forward_kernel, triton_mlp._input_kernel, triton_mlp._weight_kernel)


def compile_kernel(kernel, width, hidden, tile, capability):
    """Return shared memory, spilled bytes and multiply-adds of the tensor cores a slice."""
    names = kernel.arg_names
    first, second = triton_mlp.split_width(width)
    fixed = dict(ACT='gelu', HAS_B1=True, HAS_B2=True, HAS_GAIN=False, WIDEN=False,
                 PRECISION='ieee', EXACT=False, C=width, H=hidden, GROUPS=4, BLOCK_A=first,
                 BLOCK_B=second, sxc=1, syc=1, sgc=1, sdc=1, scale_ptr=None, shift_ptr=None,
                 gain_ptr=None, **tile)
    options = {k: fixed.pop(k) for k in ('num_warps', 'num_stages')}
    fixed = {n: v for n, v in fixed.items() if n in names}
    kinds = {n: 'constexpr' if n in fixed else '*fp32' if n == 'sums_ptr' else
             '*bf16' if n.endswith('_ptr') else 'i32' for n in names}
    # Pointers are aligned and strides are multiples of the width, as they are in networks.
    aligned = {(i, ): [['tt.divisibility', 16]] for i, n in enumerate(names)
               if n not in fixed and (n.endswith('_ptr') or re.fullmatch('s[xygd][bp]', n))}
    made = triton.compile(ASTSource(kernel, kinds, fixed, aligned),
                          target=GPUTarget('cuda', capability, 32), options=options)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, 'kernel.ptx')
        source.write_text(made.asm['ptx'])
        report = subprocess.run(
            [PTXAS, '-v', f'-arch=sm_{capability}{"a" if capability >= 90 else ""}', source, '-o',
             '/dev/null'], capture_output=True, text=True).stderr
    spilled, = re.findall(r'(\d+) bytes spill stores', report)
    macs = 0
    for group, m, n, k in re.findall(r'(wgmma)?\S*\.m(\d+)n(\d+)k(\d+)\.', made.asm['ptx']):
        # One instruction for four warps, or one for each.
        macs += int(m) * int(n) * int(k) * options['num_warps'] // (4 if group else 1)
    return made.metadata.shared, int(spilled), macs


def main():
    capabilities, widths = ([int(n) for n in text.split(',')] for text in sys.argv[1:])
    for capability in capabilities:
        for width in widths:
            hidden = 8 * width
            for kernel in KERNELS:
                tile = triton_mlp.tiles(kernel, width, hidden, capability=capability)[0]
                shared, spilled, macs = compile_kernel(kernel, width, hidden, tile, capability)
                products = 2 + KERNELS.index(kernel)
                print(json.dumps(dict(
                    kernel=kernel.fn.__name__, capability=capability, width=width, shared=shared,
                    spilled=spilled, macs=macs,
                    needed=products * tile['BLOCK_M'] * tile['BLOCK_H'] * width)), flush=True)


if __name__ == '__main__':
    main()
