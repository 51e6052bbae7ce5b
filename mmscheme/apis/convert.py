"""Command lines of the converters in ``tools/model_converters``."""
import argparse
import io
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from mmengine import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from torch import Tensor, nn

from mmscheme.checks import check_data
from mmscheme.converters.block_diagonal import PERMUTATIONS, LayerFit, convert_backbone
from mmscheme.converters.metaformer import NORMS, from_metaformer, to_timm
from mmscheme.models import SCHEMEformer
from mmscheme.utils.checkpoint_io import find_weights, load_checkpoint, make_plain
from mmscheme.utils.cli import add_config_arguments
from mmscheme.utils.config_query import scope_of
from mmscheme.utils.output_files import check_not_read, write_bytes
from mmscheme.utils.user_errors import user_errors
from mmscheme.version import __version__

from .config import load_config

__all__ = ['BlockDiagonalModel', 'convert_classifier', 'dense_to_block_diagonal',
           'metaformer_to_mmscheme', 'mmscheme_to_timm']


def _read(path: str) -> Tuple[Dict[str, Any], Dict[str, Tensor]]:
    """What training noted in a checkpoint, and its weights."""
    content = load_checkpoint(path, map_location='cpu')
    try:
        weights = find_weights(content)
    except ValueError as e:
        raise ValueError(f'{path}: {e}') from None
    meta = content.get('meta')
    return meta if isinstance(meta, dict) else {}, weights


def _check_target(target: Path, **sources: str) -> None:
    """Before any work."""
    if target.is_dir():
        raise ValueError(f'expected a file to write, found the folder {target}')
    check_not_read(target, **sources)


def _write(content: Dict[str, Any], path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())


def _file_parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('source', help='checkpoint to read; no code in it is run')
    parser.add_argument('target', type=Path, help='file to write')
    parser.add_argument('--debug', action='store_true', help='show the traceback of an error')
    return parser


def metaformer_to_mmscheme(argv: Optional[List[str]] = None) -> None:
    """The command line of ``tools/model_converters/metaformer2mmscheme.py``."""
    parser = _file_parser('Convert weights of PoolFormer (sail-sg, mmpretrain), MetaFormer-PPAA '
                          '(sail-sg) or the SCHEMEformer of its authors.')
    parser.add_argument('--norm', choices=sorted(NORMS),
                        help='norm layers of the source, which its weights do not tell: over the '
                        'whole map (group; PoolFormer, SCHEMEformer) or the channels of each '
                        'position (layer; metaformer_ppaa_s12_224)')
    parser.add_argument('--keep-alpha', action='store_true',
                        help='keep alpha and CCA, to go on training, where the authors drop both '
                        'in evaluation')
    args = parser.parse_args(argv)
    with user_errors(args.debug):
        _check_target(args.target, checkpoint=args.source)
        _, weights = _read(args.source)
        try:
            found = from_metaformer(weights, args.norm, args.keep_alpha)
        except (LookupError, ValueError) as e:
            missing = 'a weight is missing: ' if isinstance(e, LookupError) else ''
            raise ValueError(f'{args.source}: {missing}{e}') from None
        _write(dict(meta=dict(mmscheme_version=__version__, backbone=make_plain(found.backbone)),
                    state_dict=found.state_dict), args.target)
    for block, rest in found.mixing.items():
        print(f'{block}: 1 - alpha = {rest:.4f}')
    if found.backbone.get('keep_cca') and max(found.mixing.values()) > 0.01:
        print('warning: the authors keep CCA of these mixers in evaluation and compute it from '
              'wrongly ordered values; here it is the one of the paper, and outputs differ as '
              'far as 1 - alpha is not 0')
    print(f'{args.target}: {len(found.state_dict)} tensors for\n'
          + Config(dict(model=dict(backbone=found.backbone))).pretty_text.rstrip())


def mmscheme_to_timm(argv: Optional[List[str]] = None) -> None:
    """The command line of ``tools/model_converters/mmscheme2timm.py``."""
    args = _file_parser('Convert a SCHEMEformer (a backbone or any model with one) to a plain '
                        "state dict with the names of timm's MetaFormer.").parse_args(argv)
    with user_errors(args.debug):
        _check_target(args.target, checkpoint=args.source)
        _, weights = _read(args.source)
        try:
            state = to_timm(weights)
        except ValueError as e:
            raise ValueError(f'{args.source}: {e}') from None
        _write(state, args.target)
    rest = [float(v * torch.sigmoid(-weights[k.replace('cca_factor', 'alpha_logit')]))
            for k, v in weights.items() if k.endswith('.cca_factor')]
    if max(rest, default=0.) > 0:
        print(f'note: CCA is not in it; 1 - alpha is up to {max(rest):.4f}')
    print(f'{args.target}: {len(state)} tensors')


class BlockDiagonalModel(NamedTuple):
    """A converted model.

    Attributes:
        model: The model with the block-diagonal backbone.
        report: What each FFN keeps.
    """
    model: nn.Module
    report: List[LayerFit]


def convert_classifier(cfg: Config, weights: Dict[str, Tensor], images: Sequence[Tensor],
                       groups: Sequence[int] = (4, 4), expansion: float = 8, **settings: Any
                       ) -> BlockDiagonalModel:
    """Turns a trained model with a dense SCHEMEformer into a block-diagonal one.

    The order of a stage's channels is free where nobody but the backbone reads the stage,
    and in the last stage of a classifier with a linear head, which follows; other stages
    keep theirs.

    Args:
        cfg: Config of the dense model.
        weights: Its weights; all must fit.
        images: See :func:`mmscheme.converters.convert_backbone`.
        groups, expansion: Of the new FFNs.
        **settings: Further arguments of :func:`~mmscheme.converters.convert_backbone`.

    Returns:
        The new model and the report.

    Raises:
        ValueError: The model has no dense SCHEMEformer, or the weights do not fit it.
    """
    init_default_scope(scope_of(cfg))
    dense = _build_with(cfg, weights)
    new_cfg = cfg.model.copy()
    new_cfg.backbone = dict(new_cfg.backbone, groups=tuple(groups), expansion=expansion, cca=True)
    model = MODELS.build(new_cfg)
    rest = {k: v for k, v in dense.state_dict().items() if not k.startswith('backbone.')}
    model.load_state_dict(rest, strict=False)
    head = getattr(getattr(model, 'head', None), 'fc', None)
    # Pooling keeps the channels; what else may stand between does not.
    pooled = type(getattr(model, 'neck', None)).__name__ in ('GlobalAveragePooling', 'NoneType')
    follows = isinstance(head, nn.Linear) and pooled and model.backbone.out_indices == (3, )
    hidden = [i for i in range(len(model.backbone.stages))
              if i not in model.backbone.out_indices]
    report, orders = convert_backbone(dense.backbone, model.backbone, images,
                                      movable=(*hidden, 3) if follows else hidden, **settings)
    if isinstance(head, nn.Linear) and follows and 3 in orders:
        with torch.no_grad():
            head.weight.copy_(head.weight[:, orders[3]])
    return BlockDiagonalModel(model, report)


def _build_with(cfg: Config, weights: Dict[str, Tensor]) -> nn.Module:
    model = MODELS.build(cfg.model)
    if not isinstance(getattr(model, 'backbone', None), SCHEMEformer):
        raise ValueError('model.backbone: expected a mmscheme.SCHEMEformer to convert, found '
                         f'{type(getattr(model, "backbone", None)).__name__}')
    own = model.state_dict()
    differ = [k for k in sorted(set(own) | set(weights))
              if k not in own or k not in weights or own[k].shape != weights[k].shape]
    if differ:
        raise ValueError(f'the checkpoint and model of the config differ in {len(differ)} '
                         f'weights; the first: {", ".join(differ[:3])}')
    model.load_state_dict(weights)
    return model.eval()


def _load_images(cfg: Config, model: nn.Module, count: int, seed: int) -> List[Tensor]:
    """Batches of the training set as the backbone gets them, of ``count`` images or all."""
    batches: List[Tensor] = []
    for data in Runner.build_dataloader(cfg.train_dataloader, seed=seed):
        batches.append(model.data_preprocessor(data, False)['inputs'])
        if sum(map(len, batches)) >= count:
            break
    return batches


def dense_to_block_diagonal(argv: Optional[List[str]] = None) -> None:
    """The command line of ``tools/model_converters/dense2block_diagonal.py``."""
    parser = argparse.ArgumentParser(
        description='Turn a trained dense MetaFormer or PoolFormer into a block-diagonal one '
        'that starts from what it has learned. Needs some images of the config, no labels.')
    add_config_arguments(parser)
    parser.add_argument('source', help='checkpoint of the dense model; no code in it is run')
    parser.add_argument('target', type=Path, help='file to write')
    parser.add_argument('--groups', nargs=2, type=int, default=(4, 4), metavar=('G1', 'G2'),
                        help='blocks of the two layers (4 4)')
    parser.add_argument('--expansion', type=float, default=8, help='hidden width (8)')
    parser.add_argument('--num-images', type=int, default=256,
                        help='training images to fit on (256)')
    parser.add_argument('--permutation', choices=PERMUTATIONS, default='cluster',
                        help='order of the channels; the others are for comparison (cluster)')
    parser.add_argument('--compare', action='store_true',
                        help='report the other orders of the channels beside the chosen one')
    parser.add_argument('--seed', type=int, default=0, help='of all that is drawn (0)')
    args = parser.parse_args(argv)
    with user_errors(args.debug):
        if args.num_images < 8:
            raise ValueError(f'--num-images: expected at least 8, found {args.num_images}')
        _check_target(args.target, checkpoint=args.source, config=args.config)
        cfg = load_config(args.config, cfg_options=args.cfg_options, data_root=args.data_root)
        init_default_scope(scope_of(cfg))
        check_data(cfg, ('train', ), labels=False).finish()
        meta, weights = _read(args.source)
        torch.manual_seed(args.seed)
        images = _load_images(cfg, MODELS.build(cfg.model), args.num_images, args.seed)
        reports = {}
        others = [p for p in PERMUTATIONS if p != args.permutation] if args.compare else []
        for permutation in (*others, args.permutation):
            # The units that a fit adds are drawn alike for each.
            torch.manual_seed(args.seed)
            model, reports[permutation] = convert_classifier(
                cfg, weights, images, args.groups, args.expansion, permutation=permutation,
                seed=args.seed, progress=_Progress(permutation))
        print(_table(reports))
        _write(dict(meta=make_plain({'mmscheme_version': __version__,
                                     **{k: meta[k] for k in ('dataset_meta', ) if k in meta}}),
                    state_dict=model.state_dict()), args.target)
    print(f'{args.target}: for the same config with model.backbone.groups='
          f'"({args.groups[0]},{args.groups[1]})" model.backbone.expansion={args.expansion:g} '
          'model.backbone.cca=True')


class _Progress:
    """Prints a line for each FFN."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.start = time.perf_counter()

    def __call__(self, fit: LayerFit) -> None:
        print(f'[{self.title}, {time.perf_counter() - self.start:.0f} s] {fit.name}: keeps '
              f'{fit.fitted:.1%} of the output ({fit.projected:.1%} before the fit)', flush=True)


def _table(reports: Dict[str, List[LayerFit]]) -> str:
    """What each FFN keeps, a column an order of the channels."""
    lines = ['share of the dense output that is kept, on images not fitted: cut out -> fitted',
             '| FFN | ' + ' | '.join(reports) + ' |', '| --- |' + ' --- |' * len(reports)]
    for fits in zip(*reports.values()):
        cells = ' | '.join(f'{f.projected:.3f} -> {f.fitted:.3f}' for f in fits)
        lines.append(f'| {fits[0].name} | {cells} |')
    means = (sum(f.fitted for f in r) / len(r) for r in reports.values())
    return '\n'.join([*lines, '| mean | ' + ' | '.join(f'{m:.3f}' for m in means) + ' |'])
