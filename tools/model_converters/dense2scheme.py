"""Turn a trained dense model of any task into a SCHEME model."""
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
        'that inherits yours, and a checkpoint. Needs training images, and labels only for tests '
        'and fine-tuning. Run it again to continue after an interruption.')
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='trained weights of the config: a path, a URL or '
                        'hf://OWNER/NAME/FILE; no code in it is run')
    parser.add_argument('out_dir', type=Path, help='folder to write')
    parser.add_argument('--budget', type=float, default=0.5, metavar='SHARE',
                        help="cost as a share of the FFNs' multiply-adds; the groups that keep "
                        'most at this cost are used (default: 0.5)')
    parser.add_argument('--groups', nargs=2, type=int, metavar=('G1', 'G2'),
                        help='groups of the two layers, with --expansion instead of --budget')
    parser.add_argument('--expansion', type=float, metavar='E',
                        help='hidden width divided by input width')
    parser.add_argument('--within', nargs='+', metavar='NAME',
                        help='names or patterns of the modules whose channel mixers are converted '
                        '(default: the backbone)')
    parser.add_argument('--exclude', nargs='+', metavar='NAME',
                        help='names or patterns of modules that stay dense')
    parser.add_argument('--num-images', type=int, default=256, metavar='N',
                        help='training images to fit on (default: 256)')
    parser.add_argument('--distill-iters', type=int, default=0, metavar='N',
                        help='iterations of distillation, without labels (default: 0)')
    parser.add_argument('--distill-lr', type=float, default=5e-4,
                        metavar='RATE',
                        help='learning rate of the distillation (default: 5e-4)')
    parser.add_argument('--finetune-iters', type=int, default=0, metavar='N',
                        help="iterations of the config's own training, at a tenth of its learning "
                        'rate (default: 0)')
    parser.add_argument('--no-test', dest='test', action='store_false',
                        help='do not measure the metric')
    parser.add_argument('--seed', type=int, default=0,
                        help='seed of the random numbers (default: 0)')
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
