"""Convert weights of the MetaFormer family to a SCHEMEformer."""
import argparse
from pathlib import Path
from typing import List, Optional

from mmengine import Config

from mmscheme.converters import NORMS, from_metaformer
from mmscheme.utils.checkpoint_io import make_plain, read_weights, save_checkpoint
from mmscheme.utils.output_files import check_not_read
from mmscheme.utils.user_errors import user_errors
from mmscheme.version import __version__


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Convert weights of PoolFormer (sail-sg, mmpretrain), MetaFormer-PPAA '
        "(sail-sg) or the authors' SCHEMEformer to those of a SCHEMEformer here.")
    parser.add_argument('source', help='checkpoint to read; no code in it is run')
    parser.add_argument('target', type=Path, help='checkpoint to write')
    parser.add_argument('--norm', choices=sorted(NORMS),
                        help='what the norms of the source average over, if its weights do not '
                        'tell: the whole map (group; PoolFormer, SCHEMEformer) or the channels of '
                        'each position (layer; metaformer_ppaa_s12_224)')
    parser.add_argument('--keep-alpha', action='store_true',
                        help='keep alpha and CCA, to continue training; the authors drop both in '
                        'evaluation')
    parser.add_argument('--debug', action='store_true', help='print the traceback of an error')
    return parser.parse_args(argv)


def main(argv: Optional[List[str]] = None) -> None:
    """Write the converted checkpoint, and print the config of its backbone."""
    args = parse_args(argv)
    with user_errors(args.debug):
        check_not_read(args.target, checkpoint=args.source)
        weights, _ = read_weights(args.source)
        try:
            found = from_metaformer(weights, args.norm, args.keep_alpha)
        except (LookupError, ValueError) as e:
            missing = 'a weight is missing: ' if isinstance(e, LookupError) else ''
            raise ValueError(f'{args.source}: {missing}{e}') from None
        save_checkpoint(dict(meta=dict(mmscheme_version=__version__,
                                       backbone=make_plain(found.backbone)),
                             state_dict=found.state_dict), args.target)
    for block, rest in found.mixing.items():
        print(f'{block}: CCA weight {rest:.4f}')
    if found.backbone.get('keep_cca') and max(found.mixing.values()) > 0.01:
        print('warning: the authors keep CCA of these mixers in evaluation and compute it from '
              'wrongly ordered values; here it is the one of the paper, and outputs differ as '
              'far as the CCA weight is not 0')
    print(f'{args.target}: {len(found.state_dict)} tensors for\n'
          + Config(dict(model=dict(backbone=found.backbone))).pretty_text.rstrip())


if __name__ == '__main__':
    main()
