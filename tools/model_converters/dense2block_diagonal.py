"""Turn a trained dense MetaFormer or PoolFormer into a block-diagonal one."""
import argparse
import time
from pathlib import Path
from typing import Dict, List, Optional

import torch
from mmengine import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import Tensor

from mmscheme.apis.config import load_config
from mmscheme.checks import check_data
from mmscheme.converters import PERMUTATIONS, LayerFit, convert_classifier
from mmscheme.models.loading import build_model
from mmscheme.utils.checkpoint_io import make_plain, read_weights, save_checkpoint
from mmscheme.utils.cli import add_config_arguments
from mmscheme.utils.config_query import loader_config, scope_of
from mmscheme.utils.markdown import markdown_table
from mmscheme.utils.output_files import check_not_read
from mmscheme.utils.user_errors import user_errors
from mmscheme.version import __version__


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Turn a trained dense MetaFormer or PoolFormer into a block-diagonal one '
        'that keeps most of what it has learned. Needs training images of the config, but no '
        'labels.')
    add_config_arguments(parser)
    parser.add_argument('source', help='checkpoint of the dense model; no code in it is run')
    parser.add_argument('target', type=Path, help='checkpoint to write')
    parser.add_argument('--groups', nargs=2, type=int, default=(4, 4), metavar=('G1', 'G2'),
                        help='groups of the two layers (default: 4 4)')
    parser.add_argument('--expansion', type=float, default=8, metavar='E',
                        help='hidden width divided by input width (default: 8)')
    parser.add_argument('--num-images', type=int, default=256, metavar='N',
                        help='training images to fit on (default: 256)')
    parser.add_argument('--permutation', choices=PERMUTATIONS, default='cluster',
                        help='order of the channels; the others are for comparison (default: '
                             'cluster)')
    parser.add_argument('--compare', action='store_true',
                        help='also report the other orders of the channels')
    parser.add_argument('--seed', type=int, default=0,
                        help='seed of the random numbers (default: 0)')
    return parser.parse_args(argv)


def _load_images(cfg: Config, count: int, seed: int) -> List[Tensor]:
    """Return batches of ``count`` training images or all, as the backbone gets them."""
    model = build_model(cfg)
    batches: List[Tensor] = []
    for data in Runner.build_dataloader(loader_config(cfg, 'train'), seed=seed):
        batches.append(model.data_preprocessor(data, False)['inputs'])
        if sum(map(len, batches)) >= count:
            break
    return batches


def _table(reports: Dict[str, List[LayerFit]]) -> str:
    """Return a table of how much each FFN keeps, a column an order of the channels."""
    rows = [[fits[0].name, *(f'{f.projected:.3f} -> {f.fitted:.3f}' for f in fits)]
            for fits in zip(*reports.values())]
    means = [f'{sum(f.fitted for f in r) / len(r):.3f}' for r in reports.values()]
    return ('share of the dense output that is kept, on images not fitted: cut out -> fitted\n'
            + markdown_table(['FFN', *reports], [*rows, ['mean', *means]]))


def main(argv: Optional[List[str]] = None) -> None:
    """Write the checkpoint, and print how much of each FFN's output it keeps."""
    args = parse_args(argv)
    with user_errors(args.debug):
        if args.num_images < 8:
            raise ValueError(f'--num-images: expected at least 8, found {args.num_images}')
        check_not_read(args.target, checkpoint=args.source, config=args.config)
        cfg = load_config(args.config, cfg_options=args.cfg_options, data_root=args.data_root)
        init_default_scope(scope_of(cfg))
        check_data(cfg, ('train', ), labels=False).finish()
        weights, meta = read_weights(args.source)
        torch.manual_seed(args.seed)
        images = _load_images(cfg, args.num_images, args.seed)
        reports: Dict[str, List[LayerFit]] = {}
        others = [p for p in PERMUTATIONS if p != args.permutation] if args.compare else []
        for permutation in (*others, args.permutation):
            # Because the units that a fit adds are then drawn alike for each.
            torch.manual_seed(args.seed)
            start = time.perf_counter()

            def progress(fit: LayerFit, title: str = permutation, start: float = start) -> None:
                print(f'[{title}, {time.perf_counter() - start:.0f} s] {fit.name}: keeps '
                      f'{fit.fitted:.1%} of the output ({fit.projected:.1%} before the fit)',
                      flush=True)

            model, reports[permutation] = convert_classifier(
                cfg, weights, images, args.groups, args.expansion, permutation=permutation,
                seed=args.seed, progress=progress)
        print(_table(reports))
        noted = {k: meta[k] for k in ('dataset_meta', ) if k in meta}
        save_checkpoint(dict(meta=make_plain(dict(mmscheme_version=__version__, **noted)),
                             state_dict=model.state_dict()), args.target)
    print(f'{args.target}: for the same config with model.backbone.groups='
          f'"({args.groups[0]},{args.groups[1]})" model.backbone.expansion={args.expansion:g} '
          'model.backbone.cca=True')


if __name__ == '__main__':
    main()
