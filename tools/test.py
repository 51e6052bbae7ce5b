"""Test a checkpoint or an exported file."""
import argparse
import warnings
from typing import List, Optional

from mmscheme.apis.config import load_config
from mmscheme.apis.test import test
from mmscheme.deploy.runtime import RUNTIMES
from mmscheme.utils.cli import add_common_arguments, add_config_arguments
from mmscheme.utils.processes import end_launched, set_local_rank
from mmscheme.utils.user_errors import user_errors


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Test a checkpoint or an exported file and print its metrics.')
    add_config_arguments(parser)
    parser.add_argument('checkpoint', nargs='?',
                        help='checkpoint: a path, a URL or hf://OWNER/NAME/FILE')
    parser.add_argument('--exported', metavar='FILE',
                        help='test a file of `python -m mmscheme export` instead of a checkpoint')
    parser.add_argument('--runtime', choices=RUNTIMES, default='onnxruntime',
                        help='run an exported file *.onnx with this (default: onnxruntime)')
    parser.add_argument('--out', metavar='PATH',
                        help='save the predictions: masks into this folder '
                        '(segmentation), or a pickle file (detection, classification)')
    parser.add_argument('--show-dir', metavar='DIR',
                        help='draw ground truth and prediction side by side into this folder')
    parser.add_argument('--show', action='store_true', help='show these pictures in a window')
    parser.add_argument('--wait-time', type=float, default=2, metavar='SECONDS',
                        help='how long --show shows a picture (default: 2)')
    parser.add_argument('--tta', action='store_true', help='use test-time augmentation')
    parser.add_argument('--report', metavar='DIR',
                        help='write a page with metrics, classes, images, cost and speed into '
                        'this folder: report.html; segmentation and detection only')
    parser.add_argument('--keep-cca', action='store_true',
                        help='test twice, with CCA dropped and with CCA kept, and print both '
                             'metrics')
    add_common_arguments(parser)
    return parser.parse_args(argv)


def main(argv: Optional[List[str]] = None) -> None:
    """Test, and print the metrics."""
    args = parse_args(argv)
    set_local_rank(args.local_rank)
    warnings.filterwarnings('ignore', category=UserWarning, module='mm(engine|cv|seg|det)')
    with user_errors(args.debug) as started:
        cfg = load_config(args.config, args.work_dir, args.cfg_options, args.data_root)
        started.work_dir = cfg.work_dir
        outcome = test(cfg, args.checkpoint, args.report, args.keep_cca, hooks=[started],
                       out=args.out, show_dir=args.show_dir, show=args.show,
                       wait_time=args.wait_time, tta=args.tta, launcher=args.launcher,
                       preflight=args.preflight, stock_runtime=args.stock_runtime,
                       exported=args.exported, runtime=args.runtime)
        if outcome.page is not None:
            print(f'\nreport: {outcome.page.resolve()}')
        if outcome.comparison is not None:
            print(f'\n{outcome.comparison}')
    end_launched()


if __name__ == '__main__':
    main()
