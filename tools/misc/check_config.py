"""Check the data, model and machine of a run without starting it."""
import argparse
import time
import warnings
from pathlib import Path
from typing import List, Optional

from mmengine.registry import init_default_scope

from mmscheme.analysis.browse_dataset import browse
from mmscheme.apis.config import load_config
from mmscheme.apis.run_length import apply_length
from mmscheme.checks import check_run
from mmscheme.checks.labels import overlaps
from mmscheme.utils.cli import add_config_arguments, add_length_arguments
from mmscheme.utils.config_query import SPLITS, scope_of
from mmscheme.utils.user_errors import user_errors


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Check the data, model, checkpoints and disk space of a run without starting '
        'it, in seconds.')
    add_config_arguments(parser)
    add_length_arguments(parser)
    parser.add_argument('--checkpoint', metavar='FILE',
                        help='check a test of this checkpoint instead of a training')
    parser.add_argument('--splits', nargs='+', choices=SPLITS, metavar='SPLIT',
                        help='data sets to check (default: train val, or test with --checkpoint)')
    parser.add_argument('--all', action='store_true',
                        help='read all images and masks, not only 200 of each data set')
    parser.add_argument('--labels', action='store_true',
                        help='print how many labels each class has in each split, and look for '
                        'images that are in two splits')
    parser.add_argument('--pictures', metavar='DIR',
                        help='draw a few images of each split with their labels')
    parser.add_argument('--work-dir', metavar='DIR', help='folder for logs and checkpoints '
                        '(default: work_dirs/<name of the config>)')
    return parser.parse_args(argv)


def main(argv: Optional[List[str]] = None) -> None:
    """Print errors and warnings, and exit with status 2 where there are errors."""
    args = parse_args(argv)
    warnings.filterwarnings('ignore', category=UserWarning)
    start = time.perf_counter()
    with user_errors(args.debug):
        cfg = load_config(args.config, args.work_dir, args.cfg_options, args.data_root,
                          args.epochs, args.iters)
        if args.checkpoint:
            cfg.load_from, cfg.resume = args.checkpoint, False
        init_default_scope(scope_of(cfg))
        splits = args.splits or (('test', ) if args.checkpoint else ('train', 'val'))
        if 'train' in splits:
            apply_length(cfg)
        findings = check_run(cfg, splits, args.all)
        if args.labels:
            for line in overlaps(findings.labels, contents=True):
                findings.warn(line)
            for table in findings.labels:
                print('\n'.join(table.lines()))
        for line in findings.warnings:
            print(f'warning: {line}')
        print(f'{args.config}: {findings.summary()} in {time.perf_counter() - start:.1f} s',
              flush=True)
        if findings.errors:
            raise findings.as_error()
        for split in splits if args.pictures else ():
            browse(cfg, str(Path(args.pictures, split)), split, 4)


if __name__ == '__main__':
    main()
