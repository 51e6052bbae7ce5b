"""Publish the weights of a checkpoint, in a file that has their hash in its name."""
import argparse
from pathlib import Path
from typing import List, Optional, Tuple

from mmengine.registry import init_default_scope

from mmscheme.apis.config import load_config
from mmscheme.apis.model_card import model_card
from mmscheme.apis.publish import publish
from mmscheme.utils.config_query import scope_of
from mmscheme.utils.hub import check_repo, upload
from mmscheme.utils.output_files import write_bytes
from mmscheme.utils.user_errors import user_errors


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Write the weights of a checkpoint, without what only training needs, to a '
        'file that has their hash in its name.')
    parser.add_argument('checkpoint', help='checkpoint written by training')
    parser.add_argument('target', help='file to write, *.pth or *.safetensors; a hash is added to '
                        'its name')
    parser.add_argument('--half', action='store_true', help='store the weights in half precision')
    parser.add_argument('--config', metavar='FILE',
                        help='write this whole config beside the weights')
    parser.add_argument('--safetensors', action='store_true',
                        help='write a *.safetensors file, and a model card beside it')
    parser.add_argument('--hub', metavar='OWNER/NAME',
                        help='upload weights, config and card to this repository of the Hugging '
                        'Face Hub; run `hf auth login` first')
    parser.add_argument('--private', action='store_true',
                        help='create the repository as a private one')
    card = parser.add_argument_group('model card')
    card.add_argument('--license', help='licence of the weights, such as apache-2.0')
    card.add_argument('--data',
                      help='training data (default: the type of the data set in the config)')
    card.add_argument('--metric', nargs='+', type=_metric, default=[], metavar='NAME=VALUE',
                      help='result of a test of these weights, such as mIoU=41.2')
    parser.add_argument('--debug', action='store_true', help='print the traceback of an error')
    return parser.parse_args(argv)


def _metric(text: str) -> Tuple[str, float]:
    name, _, value = text.partition('=')
    try:
        return name, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f'expected NAME=VALUE, found {text}') from None


def main(argv: Optional[List[str]] = None) -> None:
    """Write the checkpoint and print its name and size."""
    args = parse_args(argv)
    with user_errors(args.debug):
        check_repo(args.hub)
        cfg = load_config(args.config) if args.config else None
        target = Path(args.target)
        if args.safetensors and target.suffix == '.pth':
            target = target.with_suffix('.safetensors')
        published = publish(args.checkpoint, target, args.half, cfg)
        before, after = (f'{p.stat().st_size / 2**20:.1f} MiB' if p.is_file() else str(p)
                         for p in (Path(args.checkpoint), published))
        print(f'{published} ({before} -> {after})')
        if cfg is not None:
            print(f'config: {published.with_suffix(".py")}')
        if target.suffix == '.safetensors' or args.hub:
            if cfg is not None:
                init_default_scope(scope_of(cfg))
            card = published.with_suffix('.md')
            write_bytes(card, model_card(published, cfg, args.license, args.data,
                                         dict(args.metric), args.hub).encode())
            print(f'card: {card}')
        if args.hub:
            files = {published.name: published, 'README.md': card}
            if cfg is not None:
                config = published.with_suffix('.py')
                files[config.name] = config
            print(f'hub: {upload(args.hub, files, args.private)}')


if __name__ == '__main__':
    main()
