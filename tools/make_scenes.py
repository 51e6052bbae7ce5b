"""Generate scenes to train and test on, in the layouts of ADE20K and COCO."""
import argparse
import time
from typing import List, Optional

from mmscheme.datasets.scenes import write_scenes
from mmscheme.utils.user_errors import user_errors


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Generate scenes, and write them in the layouts of ADE20K and COCO.')
    parser.add_argument('root', help='folder to write, which must not exist yet')
    parser.add_argument('--num-train', type=int, default=320, metavar='N',
                        help='number of training images (default: 320)')
    parser.add_argument('--num-val', type=int, default=80, metavar='N',
                        help='number of validation images (default: 80)')
    parser.add_argument('--size', type=int, nargs=2, default=(128, 160),
                        metavar=('HEIGHT', 'WIDTH'),
                                 help='size of the images in pixels (default: 128 160)')
    parser.add_argument('--seed', type=int, default=0,
                        help='seed of the random numbers (default: 0)')
    parser.add_argument('--ids', choices=['own', 'ade20k'], default='own',
                        help='ids in the masks: those of the 9 classes of the scenes, or those of '
                        'the same classes in ADE20K (default: own)')
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
