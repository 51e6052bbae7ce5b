"""Write the deployment form of a checkpoint, without what only training needs."""
import argparse
from typing import List, Optional

from mmscheme.apis.config import load_config
from mmscheme.deploy.fold import write_deployed
from mmscheme.utils.cli import add_config_arguments
from mmscheme.utils.user_errors import user_errors


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Write the deployment form of a checkpoint: alpha, layer scale and batch norms '
        'are folded into the weights, CCA and auxiliary heads are removed, and the outputs stay '
        'the same. Use the new config and checkpoint like the originals, in test.py, predict.py '
        'and export.py.')
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint: a path, a URL or hf://OWNER/NAME/FILE')
    parser.add_argument('target', help='checkpoint to write, *.pth or *.safetensors; the config is '
                        'written beside it under the same name')
    return parser.parse_args(argv)


def main(argv: Optional[List[str]] = None) -> None:
    """Write checkpoint and config."""
    args = parse_args(argv)
    with user_errors(args.debug):
        cfg = load_config(args.config, cfg_options=args.cfg_options, data_root=args.data_root)
        target, config, difference, (before, after) = write_deployed(
            cfg, args.checkpoint, args.target)
    print(f'{before:,} -> {after:,} parameters; outputs differ by {difference:.1g} of the '
          f'largest\nconfig: {config}\ncheckpoint: {target}')


if __name__ == '__main__':
    main()
