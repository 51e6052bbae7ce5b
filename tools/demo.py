"""Train a segmenter on generated scenes, test it and draw pictures."""
import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Iterable, List, Optional

import cv2
import numpy as np
from numpy.typing import NDArray

from mmscheme.datasets.scenes import CLASSES, write_scenes
from mmscheme.utils.setup_env import get_config_path


def constant_miou(train: Iterable[NDArray[Any]], test: Iterable[NDArray[Any]],
                  num_classes: int) -> float:
    """Return the mean IoU on ``test`` of predicting ``train``'s most frequent class everywhere.

    Args:
        train, test: Masks with ids from 1 to ``num_classes``; 0 does not count.
        num_classes: Number of classes.

    Returns:
        The mean over the classes that occur in ``test`` or are predicted, in [0, 1].
    """

    def count(masks: Iterable[NDArray[Any]]) -> NDArray[Any]:
        total = sum(np.bincount(mask.ravel(), minlength=num_classes + 1) for mask in masks)
        return np.asarray(total)[1:num_classes + 1]

    predicted = int(np.argmax(count(train)))
    truth = count(test)
    classes = set(np.flatnonzero(truth)) | {predicted}
    return float(truth[predicted] / truth.sum() / len(classes))


def _masks(folder: Path) -> Iterable[NDArray[Any]]:
    return (cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in sorted(folder.glob('*.png')))


def _run(tool: str, *arguments: str) -> None:
    shown = ' '.join(['python', '-m', 'mmscheme', tool, *arguments])
    print(f'\n$ {shown}', flush=True)
    path = str(Path(__file__).with_name(f'{tool}.py'))
    code = subprocess.run([sys.executable, path, *arguments]).returncode
    if code:
        sys.exit(code)


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Train the demo segmenter on generated scenes, test it and draw pictures.')
    parser.add_argument('--data-root', default='data/scenes', metavar='DIR',
                        help='folder of the scenes; written if missing (default: data/scenes)')
    parser.add_argument('--work-dir', default='work_dirs/upernet_scheme_s_demo', metavar='DIR',
                        help='folder for logs, checkpoints and pictures (default: %(default)s)')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE',
                        help='change values of the config, in training and testing')
    parser.add_argument('--min-miou', type=float, default=0., metavar='PERCENT',
                        help='fail if the mIoU is below this, or below 3 times that of predicting '
                        'one class everywhere (default: 0)')
    return parser.parse_args(argv)


def main(argv: Optional[List[str]] = None) -> None:
    """Write the scenes where they are missing, then train, test and draw."""
    args = parse_args(argv)
    start = time.perf_counter()
    root, work_dir = Path(args.data_root), Path(args.work_dir)
    if not root.exists():
        write_scenes(root)
        print(f'scenes written to {root}')
    config = Path(get_config_path('upernet_scheme_s_demo.py'))
    config = config.relative_to(Path.cwd()) if config.is_relative_to(Path.cwd()) else config
    common = ['--data-root', str(root), '--work-dir', str(work_dir)]
    options = ['--cfg-options', *args.cfg_options] if args.cfg_options else []
    _run('train', str(config), *common, *options)
    checkpoint = (work_dir / 'last_checkpoint').read_text().strip()
    pictures = work_dir / 'pictures'
    _run('test', str(config), checkpoint, *common, '--show-dir', str(pictures), *options)
    newest = max(work_dir.glob('*/*.json'), key=lambda path: path.stat().st_mtime)
    miou = json.loads(newest.read_text())['mIoU']
    constant = 100 * constant_miou(_masks(root / 'annotations' / 'training'),
                                   _masks(root / 'annotations' / 'validation'), len(CLASSES))
    minutes = (time.perf_counter() - start) / 60
    summary = (f'mIoU {miou:.2f} after {minutes:.1f} minutes; predicting the most '
               f'frequent class everywhere: {constant:.2f}\n'
               f'pictures (image, ground truth, prediction): {pictures.resolve()}')
    print(f'\n{summary}')
    if args.min_miou and not miou >= max(args.min_miou, 3 * constant):  # NaN is none
        print(f'error: mIoU {miou:.2f}, expected at least {max(args.min_miou, 3 * constant):.2f}',
              file=sys.stderr)
        sys.exit(1)


if __name__ == '__main__':
    main()
