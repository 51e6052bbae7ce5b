"""Give mmcv-lite the operators of mmscheme, for all programs of an environment."""
import argparse
from typing import List, Optional

from mmscheme.mmcv_ext.installation import install, uninstall
from mmscheme.utils.user_errors import user_errors


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Add the operators of mmscheme, which use torchvision, to mmcv-lite, for all '
        'programs in this environment. A compiled mmcv keeps its own.')
    parser.add_argument('--undo', action='store_true', help='remove them again')
    parser.add_argument('--debug', action='store_true', help='print the traceback of an error')
    return parser.parse_args(argv)


def main(argv: Optional[List[str]] = None) -> None:
    """Install the operators or remove them, and print the file."""
    args = parse_args(argv)
    with user_errors(args.debug):
        if args.undo:
            removed = uninstall()
            print(f'removed {removed}' if removed else 'nothing to remove')
        else:
            print(f'mmcv has operators now: {install()}')


if __name__ == '__main__':
    main()
