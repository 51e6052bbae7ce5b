"""Write the generated data set."""
import argparse
import time
from typing import List, Optional

from mmscheme.datasets.scenes import write_scenes
from mmscheme.utils.user_errors import user_errors


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Write generated scenes in the layouts of ADE20K and COCO.')
    parser.add_argument('root', help='folder to write; must not exist')
    parser.add_argument('--num-train', type=int, default=320)
    parser.add_argument('--num-val', type=int, default=80)
    parser.add_argument('--size', type=int, nargs=2, default=(128, 160),
                        metavar=('HEIGHT', 'WIDTH'), help='in pixels (128 160)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--ids', choices=['own', 'ade20k'], default='own',
                        help='class ids in the masks: their own 9, or those of ADE20K\'s 150')
    return parser.parse_args(argv)


def main(argv: Optional[List[str]] = None) -> None:
    """Write the scenes and print where they are."""
    args = parse_args(argv)
    start = time.perf_counter()
    with user_errors():
        root = write_scenes(args.root, args.num_train, args.num_val, tuple(args.size), args.seed,
                            args.ids)
    print(f'{args.num_train} + {args.num_val} scenes written to {root} '
          f'in {time.perf_counter() - start:.1f} s')


if __name__ == '__main__':
    main()
