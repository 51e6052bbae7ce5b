"""Time the two forms of a shared-expert FFN: all experts of each token, or only the chosen ones.

    python benchmarks/experts.py
    python benchmarks/experts.py --device cuda
"""
import argparse
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Callable, List, Optional

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmscheme.layers import SharedExpertFFN

# Channels, hidden channels, experts: the first and last layers of mLiT, and wider ones.
LAYERS = [(108, 81, 3), (108, 27, 5), (144, 144, 3), (144, 72, 5), (384, 384, 4), (768, 768, 8)]
TOKENS = (145, 64 * 145)


def milliseconds(call: Callable[[], object], device: str, rounds: int) -> float:
    """Return the median time of a call."""
    times = []
    for i in range(rounds + 3):
        start = time.perf_counter()
        call()
        if device == 'cuda':
            torch.cuda.synchronize()
        if i >= 3:
            times.append(1e3 * (time.perf_counter() - start))
    return median(times)


def step(layer: SharedExpertFFN, x: torch.Tensor) -> None:
    """Run the layer forward and backward."""
    layer(x).sum().backward()


def main(argv: Optional[List[str]] = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description='Time both forms of shared-expert FFNs.')
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    parser.add_argument('--rounds', type=int, default=21, help='calls, whose median counts (21)')
    args = parser.parse_args(argv)
    print('| channels | hidden | experts | tokens | inference, all, ms | gathered | '
          'training step, all, ms | gathered |')
    print('|' + ' ---: |' * 8)
    for channels, hidden, experts in LAYERS:
        layer = SharedExpertFFN(channels, hidden, num_experts=experts, importance_weight=0,
                                load_weight=0).to(args.device)
        for tokens in TOKENS:
            x = torch.randn(1, tokens, channels, device=args.device, requires_grad=True)
            cells = []
            for layer.gathered in (False, True):
                with torch.no_grad():
                    layer.eval()
                    cells.append(milliseconds(partial(layer, x), args.device, args.rounds))
                layer.train()
                cells.append(milliseconds(partial(step, layer, x), args.device, args.rounds))
            times = ' | '.join(f'{cells[i]:.2f}' for i in (0, 2, 1, 3))
            print(f'| {channels} | {hidden} | {experts} | {tokens} | {times} |', flush=True)


if __name__ == '__main__':
    main()
