"""Export a trained model to ONNX, torch.export or TorchScript."""
import argparse
from pathlib import Path
from typing import List, Optional

from mmscheme.apis.config import load_config
from mmscheme.deploy.export import export
from mmscheme.deploy.runtime import FORMATS
from mmscheme.utils.cli import add_config_arguments, add_shape_argument, read_shape
from mmscheme.utils.user_errors import user_errors


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Export the deployment form of a checkpoint. The file is run and compared '
        'with PyTorch before it is kept.')
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='file written by training')
    parser.add_argument('--format', choices=sorted(FORMATS.values()), default='onnx')
    parser.add_argument('--out', metavar='FILE', help='file to write (the checkpoint with another '
                        'suffix: .onnx, .pt2 for torch_export, .pt for torchscript)')
    add_shape_argument(parser, '; images that do not fit are shrunk')
    parser.add_argument('--dynamic', action='store_true',
                        help='any batch, height and width, these in multiples of 32')
    parser.add_argument('--batch', type=int, default=1, metavar='N',
                        help='images that the file takes at once (1)')
    args = parser.parse_args(argv)
    if args.batch < 1 or args.dynamic and args.batch > 1:
        parser.error(f'--batch: expected a number of images, without --dynamic, found {args.batch}')
    return args


def main(argv: Optional[List[str]] = None) -> None:
    """Write the file, and print how far its outputs are from PyTorch's."""
    args = parse_args(argv)
    with user_errors(args.debug):
        suffix = {v: k for k, v in FORMATS.items()}[args.format]
        # The file of an address is written to this folder.
        source = Path(args.checkpoint.split('://')[-1])
        source = Path(source.name) if '://' in args.checkpoint else source
        target = Path(args.out) if args.out else source.with_suffix(suffix)
        if target.suffix != suffix:
            raise ValueError(f'--out: expected a file *{suffix} for {args.format}, found {target}')
        shape = read_shape(args.shape, least=32)
        cfg = load_config(args.config, cfg_options=args.cfg_options, data_root=args.data_root)
        print('tracing the model and comparing it with PyTorch ...', flush=True)
        checks, left_out = export(cfg, args.checkpoint, target, shape, args.dynamic,
                                  args.batch)
    if left_out:
        print(f'note: {left_out}')
    for i, check in enumerate(checks):
        print(f'check {i + 1}: {check.text}')
    print(f'largest difference: {max(c.difference for c in checks):.2g}\n'
          f'{target} ({target.stat().st_size / 2**20:.1f} MiB)')


if __name__ == '__main__':
    main()
