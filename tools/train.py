"""Train a model."""
import argparse
import warnings
from typing import List, Optional

from mmscheme.apis.config import load_config
from mmscheme.apis.train import train
from mmscheme.utils.cli import add_common_arguments, add_config_arguments, add_length_arguments
from mmscheme.utils.processes import end_launched, set_local_rank
from mmscheme.utils.user_errors import user_errors


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Train a model.')
    add_config_arguments(parser)
    add_length_arguments(parser)
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT',
                        help='continue from this checkpoint, or from the last one in the work '
                        'folder')
    parser.add_argument('--pretrained', metavar='CHECKPOINT',
                        help='load the weights of the backbone from this checkpoint, usually that '
                        'of a classifier')
    parser.add_argument('--amp', action='store_true', help='use automatic mixed precision')
    parser.add_argument('--auto-scale-lr', action='store_true',
                        help='scale the learning rate from the batch size of the recipe to that of '
                        'this run')
    add_common_arguments(parser)
    return parser.parse_args(argv)


def main(argv: Optional[List[str]] = None) -> None:
    """Train, and save checkpoints in the work folder."""
    args = parse_args(argv)
    set_local_rank(args.local_rank)
    warnings.filterwarnings('ignore', category=UserWarning, module='mm(engine|cv|seg|det)')
    with user_errors(args.debug) as started:
        cfg = load_config(args.config, args.work_dir, args.cfg_options, args.data_root,
                          args.epochs, args.iters)
        started.work_dir = cfg.work_dir
        train(cfg, hooks=[started], resume=args.resume, amp=args.amp,
              auto_scale_lr=args.auto_scale_lr, launcher=args.launcher,
              pretrained=args.pretrained, preflight=args.preflight,
              stock_runtime=args.stock_runtime)
    end_launched()


if __name__ == '__main__':
    main()
