"""Print parameters and multiply-adds of a model."""
import argparse
import json
from typing import List, Optional

from mmscheme.analysis.complexity import COUNTER, Complexity, count_config
from mmscheme.apis.config import load_config
from mmscheme.utils.cli import add_config_arguments, add_shape_argument, read_shape
from mmscheme.utils.quiet import quiet
from mmscheme.utils.user_errors import user_errors


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Print the parameters and multiply-adds of the model of a config, counted on '
        'random input.',
        epilog=COUNTER)
    add_config_arguments(parser)
    add_shape_argument(parser)
    parser.add_argument('--training', action='store_true',
                        help='count the forward pass of training, with CCA')
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')
    return parser.parse_args(argv)


def _table(complexity: Complexity) -> str:
    indented = ('token mixers', 'channel mixers', 'other')
    lines = [f'{"":18}{"parameters":>14}{"multiply-adds":>16}']
    for name, (params, macs) in complexity.parts.items():
        label = f'  {name}' if name in indented else name
        lines.append(f'{label:18}{params / 1e6:>12.3f} M{macs / 1e9:>14.3f} G')
    return '\n'.join(lines)


def main(argv: Optional[List[str]] = None) -> None:
    """Print the table, or JSON."""
    args = parse_args(argv)
    # Quiet, because the notices of registries would break the JSON.
    with user_errors(args.debug), quiet():
        shape = read_shape(args.shape)
        cfg = load_config(args.config, cfg_options=args.cfg_options, data_root=args.data_root)
        complexity = count_config(cfg, shape, args.training)
    height, width = complexity.shape
    if args.json:
        print(json.dumps(dict(
            config=args.config, height=height, width=width, training=args.training,
            parts={name: cost._asdict() for name, cost in complexity.parts.items()})))
        return
    mode = 'forward pass of training' if args.training else 'evaluation'
    print(f'{args.config}: input {height}x{width} (height x width), {mode}\n\n'
          f'{_table(complexity)}\n\n{COUNTER}')


if __name__ == '__main__':
    main()
