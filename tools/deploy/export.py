"""Export a trained model to ONNX, torch.export or TorchScript."""
import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import List, Optional

from mmscheme.apis.config import load_config
from mmscheme.deploy.export import export
from mmscheme.deploy.quantize import QUANTIZERS, quantize
from mmscheme.deploy.runtime import FORMATS
from mmscheme.utils.cli import add_config_arguments, add_shape_argument, read_shape
from mmscheme.utils.output_files import check_not_read
from mmscheme.utils.user_errors import user_errors


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Export the deployment form of a checkpoint. The file is kept only if its '
        'outputs match those of PyTorch.')
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint: a path, a URL or hf://OWNER/NAME/FILE')
    parser.add_argument('--format', choices=sorted(FORMATS.values()), default='onnx',
                        help='format of the file (default: onnx)')
    parser.add_argument('--out', metavar='FILE', help='file to write (default: the path of the '
                        'checkpoint with the suffix .onnx, .pt2 for torch_export or .pt for '
                        'torchscript)')
    add_shape_argument(parser, '; images that do not fit are shrunk',
                       'what the config tests with; for a segmenter, the most common size of its '
                       'test images')
    parser.add_argument('--dynamic', action='store_true',
                        help='take any batch size, and any height and width that are multiples '
                             'of 32')
    parser.add_argument('--batch', type=int, default=1, metavar='N',
                        help='images that the file takes at once (default: 1)')
    parser.add_argument('--fp16', action='store_true',
                        help='compute in float16, for GPUs; ONNX only')
    parser.add_argument('--int8', choices=QUANTIZERS, help='write an INT8 file, made with the '
                        'quantizer of onnxruntime, or for OpenVINO with NNCF; ONNX only; needs the '
                        'data of the config')
    parser.add_argument('--calibration', type=int, default=64, metavar='N',
                        help='training images on which --int8 measures the ranges of the '
                        'activations (default: 64)')
    parser.add_argument('--max-loss', type=float, default=1., metavar='POINTS',
                        help='keep an INT8 file only if its metric on the test set is at most this '
                        'much worse (default: 1)')
    args = parser.parse_args(argv)
    if args.int8 and (args.format != 'onnx' or args.batch > 1 or args.fp16):
        parser.error('--int8: expected --format onnx and --batch 1, without --fp16')
    if args.calibration < 1:
        parser.error(f'--calibration: expected at least one image, found {args.calibration}')
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
        with TemporaryDirectory() as folder:
            written = Path(folder) / 'float.onnx' if args.int8 else target
            checks, notes = export(cfg, args.checkpoint, written, shape, args.dynamic,
                                   args.batch, args.fp16)
            if args.int8:
                print('quantising, and computing the metric on the test set ...', flush=True)
                check_not_read(target, checkpoint=args.checkpoint)
                metric = quantize(cfg, written, target, args.int8, args.calibration, args.max_loss)
    for note in notes:
        print(f'note: {note}')
    for i, check in enumerate(checks):
        print(f'check {i + 1}: {check.text}')
    if args.int8:
        print(f'{metric.name}: {metric.before:.2f} in float32, {metric.after:.2f} in INT8')
    print(f'largest difference: {max(c.difference for c in checks):.2g}\n'
          f'{target} ({target.stat().st_size / 2**20:.1f} MiB)')


if __name__ == '__main__':
    main()
