"""The command-line arguments that the tools share."""
import argparse
from typing import Any, Optional, Sequence, Tuple

from mmengine.config import DictAction

__all__ = ['Options', 'add_common_arguments', 'add_config_arguments', 'add_drawing_arguments',
           'add_length_arguments', 'add_shape_argument', 'pictures_folder', 'read_shape']


class Options(DictAction):
    """``--cfg-options``, with a line instead of a traceback for values that it cannot parse."""

    def __call__(self, parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        """Parse the options."""
        values = args[1] if len(args) > 1 else kwargs.get('values')
        for value in values or []:
            if '=' not in value:
                parser.error(f'--cfg-options: expected KEY=VALUE, found {value}')
        try:
            super().__call__(parser, *args, **kwargs)
        except Exception as e:
            parser.error(f'--cfg-options: {" ".join(map(str, values or []))}: {e}')


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the config and the flags that change it."""
    parser.add_argument('config', help='path of the config file')
    parser.add_argument('--data-root', metavar='DIR',
                        help='root folder of all data sets, instead of those in the config')
    parser.add_argument('--cfg-options', nargs='+', action=Options, metavar='KEY=VALUE',
                        help='change values of the config, such as '
                        'train_dataloader.batch_size=8 or key="[(a,b),(c,d)]"')
    parser.add_argument('--debug', action='store_true', help='print the traceback of an error')


def add_length_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--epochs`` and ``--iters``."""
    length = parser.add_mutually_exclusive_group()
    for name, unit in (('epochs', 'epochs'), ('iters', 'iterations')):
        length.add_argument(f'--{name}', type=int, metavar='N',
                            help=f'length of training in {unit}: warm-up, decay, validation and '
                            'checkpoints keep their share of it')


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that OpenMMLab's tools for training and testing have in common."""
    parser.add_argument('--work-dir', metavar='DIR', help='folder for logs and checkpoints '
                        '(default: work_dirs/<name of the config>)')
    parser.add_argument('--no-preflight', dest='preflight', action='store_false',
                        help='do not check data, model, checkpoints and disk space first')
    parser.add_argument('--stock-runtime', action='store_true',
                        help="use the config's own loops, hooks and data sets, not those of "
                        "mmscheme")
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none',
                        help='what started the processes (default: none)')
    # torchrun and its predecessor pass one or the other.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0,
                        help=argparse.SUPPRESS)


def _fraction(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f'expected a number in [0, 1], found {text}')
    return number


def add_drawing_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags for pictures and data of predictions; see :func:`pictures_folder`."""
    parser.add_argument('--out', metavar='DIR',
                        help='folder for the pictures (default: predictions; no pictures where '
                        '--json or --masks is given without --out)')
    parser.add_argument('--json', metavar='FILE',
                        help='write boxes and masks of a detector as COCO results, or the scores '
                        'of a classifier')
    parser.add_argument('--masks', metavar='DIR',
                        help='write the label maps of a segmenter as PNG, with the ids of the '
                        'data set')
    parser.add_argument('--ann-file', metavar='FILE',
                        help='use the ids of images and categories of these annotations in '
                        "COCO's format for --json")
    parser.add_argument('--score-thr', type=float, default=0.3,
                        metavar='SCORE',
                        help='draw boxes with at least this score (default: 0.3)')
    parser.add_argument('--opacity', type=_fraction, default=0.6,
                        metavar='FRACTION',
                        help='opacity of the colours of a segmentation, 0 to 1 (default: 0.6)')


def pictures_folder(args: argparse.Namespace) -> Optional[str]:
    """Return the folder of the pictures, or None where data alone are asked for."""
    return args.out or (None if args.json or args.masks else 'predictions')


def add_shape_argument(parser: argparse.ArgumentParser, note: str = '',
                       default: str = 'what the config trains or tests with') -> None:
    """Add ``--shape``, for :func:`read_shape`."""
    parser.add_argument('--shape', type=int, nargs='+', metavar='N',
                        help='height and width of the input in pixels, or one number for both '
                        f'(default: {default}){note}')


def read_shape(values: Optional[Sequence[int]], least: int = 1) -> Optional[Tuple[int, int]]:
    """Return height and width from the values of ``--shape``, or None where it is not given."""
    if values and (len(values) > 2 or min(values) < least):
        raise ValueError(f'--shape: expected one or two sizes of {least} pixels or more, found '
                         f'{list(values)}')
    return (values[0], values[-1]) if values else None
