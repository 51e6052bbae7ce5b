"""Time a detector on mmscheme's operators for mmcv and on compiled ones, in turns.

Needs an environment with compiled mmcv: python3 tools/dev.py --with-mmcv setup.
"""
import argparse
import sys
from copy import deepcopy
from functools import partial
from typing import Any, Callable, Dict, List, Optional

import mmcv.ops  # noqa: F401 - brings mmcv._ext
import torch
from mmengine import Config

from mmscheme.analysis.random_batch import input_shape, random_batch
from mmscheme.analysis.throughput import OURS, environment, take_turns
from mmscheme.apis.config import load_config
from mmscheme.mmcv_ext import operators
from mmscheme.models.loading import build_model
from mmscheme.utils.cli import add_shape_argument, read_shape
from mmscheme.utils.user_errors import user_errors

COMPILED = sys.modules['mmcv._ext']
WRAPPERS = [module for name, module in sys.modules.items()
            if name.startswith('mmcv.ops.') and hasattr(module, 'ext_module')]


def works(cfg: Config, shape: Any, batch_size: int, device: torch.device
          ) -> Dict[str, Callable[[], Any]]:
    """Return a training step and a prediction of a config's model, on random images."""
    torch.manual_seed(0)
    model = build_model(cfg).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), 0.)  # each step does the same
    batch = random_batch(cfg, shape, batch_size)

    def train() -> None:
        model.train()
        data = model.data_preprocessor(deepcopy(batch), True)
        loss, _ = model.parse_losses(model(**data, mode='loss'))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def predict() -> None:
        model.eval()
        with torch.no_grad():
            model.test_step(deepcopy(batch))

    return {'training step': train, 'prediction': predict}


def run_with(extension: Any, work: Callable[[], Any]) -> None:
    """Do the work with mmcv's wrappers on an extension; it samples the same boxes each time."""
    for module in WRAPPERS:
        module.ext_module = extension  # type: ignore[attr-defined]
    torch.manual_seed(0)
    work()


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', nargs='?', default='configs/mask_rcnn_scheme_s_demo.py',
                        help='config of a detector (default: %(default)s)')
    add_shape_argument(parser)
    parser.add_argument('--batch-size', type=int, default=4, help='images (default: %(default)s)')
    parser.add_argument('--rounds', type=int, default=15, help='rounds (default: %(default)s)')
    return parser.parse_args(argv)


def main(argv: Optional[List[str]] = None) -> None:
    """Print the times of both and how many times as fast ours is."""
    args = parse_args(argv)
    with user_errors():
        if COMPILED is operators:
            raise ImportError('mmcv: compiled operators expected, found those of mmscheme')
        # An untrained model is sure of nothing: all its boxes are to be suppressed and cut out.
        cfg = load_config(args.config)
        if 'rcnn' in (cfg.model.get('test_cfg') or {}):
            cfg.model.test_cfg.rcnn.score_thr = 0.
        shape = read_shape(args.shape) or input_shape(cfg)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    print(environment(device))
    for name, work in works(cfg, shape, args.batch_size, device).items():
        found = take_turns({OURS: partial(run_with, operators, work),
                            'compiled': partial(run_with, COMPILED, work)}, device, args.rounds)
        ours, other = found[OURS], found['compiled']
        print(f'{name}, {args.batch_size} images of {shape[1]}x{shape[0]}: mmscheme '
              f'{1000 * ours.seconds:.1f} ms, compiled {1000 * other.seconds:.1f} ms (middle half '
              f'{ours.spread:.0%}, {other.spread:.0%}); {other.seconds / ours.seconds:.2f} times '
              'as fast')


if __name__ == '__main__':
    main()
