"""Convert a SCHEMEformer to the weights of timm's MetaFormer."""
import argparse
from pathlib import Path
from typing import List, Optional

import torch

from mmscheme.converters import to_timm
from mmscheme.utils.checkpoint_io import read_weights, save_checkpoint
from mmscheme.utils.output_files import check_not_read
from mmscheme.utils.user_errors import user_errors


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Convert a SCHEMEformer (a backbone or any model with one) to a plain '
        "state dict with the names of timm's MetaFormer.")
    parser.add_argument('source', help='checkpoint to read; no code in it is run')
    parser.add_argument('target', type=Path, help='checkpoint to write')
    parser.add_argument('--debug', action='store_true', help='print the traceback of an error')
    return parser.parse_args(argv)


def main(argv: Optional[List[str]] = None) -> None:
    """Write the state dict."""
    args = parse_args(argv)
    with user_errors(args.debug):
        check_not_read(args.target, checkpoint=args.source)
        weights, _ = read_weights(args.source)
        try:
            state = to_timm(weights)
        except ValueError as e:
            raise ValueError(f'{args.source}: {e}') from None
        save_checkpoint(state, args.target)
    # A dense guide has no logit.
    rest = [float(v * torch.sigmoid(-weights.get(
        k.replace('cca_factor', 'alpha_logit'), torch.tensor(-torch.inf))))
            for k, v in weights.items() if k.endswith('.cca_factor')]
    if max(rest, default=0.) > 0:
        print(f'note: CCA (or a dense guide) is left out; its weight was up to {max(rest):.4f}')
    print(f'{args.target}: {len(state)} tensors')


if __name__ == '__main__':
    main()
