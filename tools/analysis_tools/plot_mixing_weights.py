"""Draw the CCA weight of each block over training."""
import argparse
from pathlib import Path
from typing import List, Optional

from mmscheme.analysis.cca_plot import plot_mixing_weights, read_mixing_log
from mmscheme.utils.user_errors import user_errors


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Draw the CCA weight (1 - alpha) of each block over training.')
    parser.add_argument('logs', nargs='+', metavar='LOG',
                        help='work folder, folder of a run, or scalars.json; each gets a panel')
    parser.add_argument('--out', default='mixing_weights.png', metavar='FILE',
                        help='picture to write (default: mixing_weights.png)')
    parser.add_argument('--debug', action='store_true', help='print the traceback of an error')
    return parser.parse_args(argv)


def main(argv: Optional[List[str]] = None) -> None:
    """Draw the picture and print the weights at the end of each run."""
    args = parse_args(argv)
    with user_errors(args.debug):
        logs = [read_mixing_log(path) for path in args.logs]
        plot_mixing_weights(logs, args.out)
    for log in logs:
        final = [values[-1] for values in log.weights.values()]
        print(f'{log.name}: CCA weight of {len(final)} blocks at iteration {log.steps[-1]}: '
              f'{min(final):.4f} to {max(final):.4f}')
    print(Path(args.out).resolve())


if __name__ == '__main__':
    main()
