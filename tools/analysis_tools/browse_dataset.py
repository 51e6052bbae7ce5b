"""Draw samples of a data set as the model will see them."""
import argparse
import os.path as osp
from pathlib import Path
from typing import List, Optional

from mmscheme.analysis.browse_dataset import browse
from mmscheme.apis.config import load_config
from mmscheme.utils.cli import add_config_arguments
from mmscheme.utils.config_query import SPLITS
from mmscheme.utils.user_errors import user_errors


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Draw samples of a data set as the model will see them, after the whole '
        'pipeline.')
    add_config_arguments(parser)
    parser.add_argument('--out', metavar='DIR',
                        help='folder for the pictures (default: work_dirs/browse/<name of the '
                             'config>)')
    parser.add_argument('--split', choices=SPLITS, default='train',
                        help='data set to draw from (default: train)')
    parser.add_argument('--number', type=int, default=16, metavar='N',
                        help='samples to draw, spread over the data set (default: 16)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the augmentation (default: 0)')
    args = parser.parse_args(argv)
    if args.number < 1:
        parser.error(f'--number: expected at least 1, found {args.number}')
    return args


def main(argv: Optional[List[str]] = None) -> None:
    """Write the pictures and print where they are."""
    args = parse_args(argv)
    out_dir = args.out or osp.join('work_dirs', 'browse', Path(args.config).stem)
    with user_errors(args.debug):
        cfg = load_config(args.config, cfg_options=args.cfg_options, data_root=args.data_root)
        written = browse(cfg, out_dir, args.split, args.number, args.seed)
    print(f'\n{len(written)} pictures: {Path(out_dir).resolve()}')


if __name__ == '__main__':
    main()
