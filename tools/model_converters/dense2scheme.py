"""Turn any trained dense model into a SCHEME model."""
import argparse
import warnings
from pathlib import Path
from typing import List, Optional

from mmscheme.apis.dense2scheme import Conversion, convert_dense
from mmscheme.converters import Form
from mmscheme.utils.cli import add_config_arguments
from mmscheme.utils.user_errors import user_errors


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Turn a trained dense model of any task into a block-diagonal one: a config '
        'that inherits yours, and a checkpoint for tools/test.py. Needs training images, and '
        'labels for tests and fine-tuning alone. The same command continues what was interrupted.')
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='trained weights of the config: path, URL, or '
                        'hf://OWNER/NAME/FILE; no code in it is run')
    parser.add_argument('out_dir', type=Path, help='folder to write')
    parser.add_argument('--budget', type=float, default=0.5, metavar='SHARE',
                        help="share of the FFNs' multiply-adds; the groups that keep most at it "
                        'are taken (0.5)')
    parser.add_argument('--groups', nargs=2, type=int, metavar=('G1', 'G2'),
                        help='blocks of the two layers, with --expansion instead of --budget')
    parser.add_argument('--expansion', type=float, help='hidden width, as a multiple of the input')
    parser.add_argument('--within', nargs='+', metavar='NAME',
                        help='channel mixers to convert: modules of the model, also as patterns '
                        '(those of the backbone)')
    parser.add_argument('--exclude', nargs='+', metavar='NAME', help='those to leave dense')
    parser.add_argument('--num-images', type=int, default=256,
                        help='training images to fit on (256)')
    parser.add_argument('--distill-iters', type=int, default=0,
                        help='iterations of distillation, without labels (0)')
    parser.add_argument('--distill-lr', type=float, default=5e-4,
                        help='its learning rate (5e-4)')
    parser.add_argument('--finetune-iters', type=int, default=0,
                        help="iterations of the config's own training, at a tenth of its learning "
                        'rate (0)')
    parser.add_argument('--no-test', dest='test', action='store_false', help='measure no metric')
    parser.add_argument('--seed', type=int, default=0, help='of all that is drawn (0)')
    args = parser.parse_args(argv)
    if (args.groups is None) != (args.expansion is None):
        parser.error('--groups and --expansion: expected both or none')
    return args


def main(argv: Optional[List[str]] = None) -> None:
    """Write config and checkpoint, and print what was kept."""
    args = vars(parse_args(argv))
    warnings.filterwarnings('ignore', category=UserWarning, module='mm(engine|cv|seg|det)')
    groups, expansion = args.pop('groups'), args.pop('expansion')
    with user_errors(args.pop('debug')) as started:
        form = Form(tuple(groups), expansion) if groups else None
        config, weights = convert_dense(Conversion(form=form, **args), hooks=[started])
    print(f'{config}\n{weights}')


if __name__ == '__main__':
    main()
