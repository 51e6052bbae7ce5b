"""Strip a checkpoint of what inference does not need, and put its hash into its name."""
import argparse
from pathlib import Path
from typing import List, Optional

from mmscheme.apis.config import load_config
from mmscheme.apis.publish import publish
from mmscheme.utils.user_errors import user_errors


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Strip a checkpoint of what inference does not need and put its hash into '
        'its name.')
    parser.add_argument('checkpoint', help='file written by training')
    parser.add_argument('target', help='file to write, *.pth; a hash is added to its name')
    parser.add_argument('--half', action='store_true', help='store the weights in half precision')
    parser.add_argument('--config', help='write this config beside it, whole')
    parser.add_argument('--debug', action='store_true', help='show the traceback of an error')
    return parser.parse_args(argv)


def main(argv: Optional[List[str]] = None) -> None:
    """Write the checkpoint and print its name and size."""
    args = parse_args(argv)
    with user_errors(args.debug):
        cfg = load_config(args.config) if args.config else None
        published = publish(args.checkpoint, args.target, args.half, cfg)
    before, after = (Path(p).stat().st_size / 2**20 for p in (args.checkpoint, published))
    print(f'{published} ({before:.1f} MiB -> {after:.1f} MiB)')


if __name__ == '__main__':
    main()
