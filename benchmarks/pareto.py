"""Measure models and draw a metric, or their width, against what they cost."""
import argparse
import json
import time
from copy import deepcopy
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from mmengine import Config
from mmengine.config import DictAction
from mmengine.utils import track_iter_progress
from torch import nn

from mmscheme.analysis.complexity import CHANNEL_MIXERS, COUNTER, count_config, find_modules
from mmscheme.analysis.random_batch import input_shape, random_batch
from mmscheme.analysis.throughput import device_name
from mmscheme.apis.config import load_config
from mmscheme.layers import BlockDiagonalLinear
from mmscheme.models.loading import build_model
from mmscheme.utils.cli import add_shape_argument, read_shape
from mmscheme.utils.config_query import step_name
from mmscheme.utils.quiet import quiet
from mmscheme.utils.user_errors import user_errors
from mmscheme.visualization.figures import new_figure


class Throughput(NamedTuple):
    """Images a second.

    Attributes:
        median, low, high: Over the runs; the middle half lies between the last two.
        runs: How many there were.
        device: Where.
    """
    median: float
    low: float
    high: float
    runs: int
    device: str


def measure_throughput(cfg: Config, shape: Optional[Tuple[int, int]] = None, batch_size: int = 1,
                       runs: int = 10) -> Throughput:
    """Time predictions of a config's model, random weights on random images.

    Preprocessing of the model and its heads are in it, reading files is not.

    Args:
        cfg: A config of mmsegmentation, mmdetection or mmpretrain.
        shape: Height and width of the images; by default what the config tests with.
        batch_size: Images a run.
        runs: How many are timed, after two that are not.

    Returns:
        Images a second.
    """
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    model = build_model(cfg).to(device)
    batch = random_batch(cfg, shape or input_shape(cfg), batch_size)
    seconds = []
    with torch.no_grad():
        for _ in range(runs + 2):
            data = deepcopy(batch)
            start = time.perf_counter()
            model.test_step(data)
            if device.type == 'cuda':
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    rates = batch_size / np.asarray(seconds[2:])
    low, median, high = np.percentile(rates, [25, 50, 75])
    name = device_name(device) + (
        '' if device.type == 'cuda' else f', {torch.get_num_threads()} threads')
    return Throughput(float(median), float(low), float(high), runs, name)


class Point(NamedTuple):
    """A model.

    Attributes:
        name: Of the config.
        series: Which models it belongs to, such as ``'44-e8'``.
        label: Of the model in its series, such as ``'s12'``.
        params, macs: Of the whole model, see :mod:`mmscheme.analysis.complexity`.
        width: Hidden channels of the channel mixers, the sum over the blocks.
        throughput: Images a second, or None where it was not measured.
        metric: From a result file, or None.
    """
    name: str
    series: str
    label: str
    params: int
    macs: int
    width: int
    throughput: Optional[Throughput]
    metric: Optional[float] = None


def hidden_width(model: nn.Module) -> int:
    """Return the sum of the widths that the channel mixers of a backbone expand to."""
    widths: List[int] = []
    for name in find_modules(model, CHANNEL_MIXERS):
        found: List[int] = [int(getattr(m, 'out_features', 0) or getattr(m, 'out_channels', 0))
                 for m in model.get_submodule(name).modules()
                 if isinstance(m, (BlockDiagonalLinear, nn.Linear, nn.Conv2d))]
        widths.append(max(found, default=0))
    return sum(widths)


def _series(cfg: Config) -> Tuple[str, str]:
    """Return series and label of a config's backbone."""
    backbone = cfg.model.get('backbone') or {}
    kind = step_name(backbone) if backbone else ''
    arch = backbone.get('arch')
    label = arch if isinstance(arch, str) else Path(cfg.filename or '').stem
    if kind != 'SCHEMEformer':
        return kind, label
    groups = backbone.get('groups', (4, 4))
    g1, g2 = (groups, groups) if isinstance(groups, int) else groups
    expansion = backbone.get('expansion', 8)
    return (f'dense-e{expansion}' if (g1, g2) == (1, 1) else f'{g1}{g2}-e{expansion}'), label


def measure(cfg: Config, shape: Optional[Tuple[int, int]] = None, batch_size: int = 1,
            runs: int = 10, metric: Optional[float] = None) -> Point:
    """Measure the model of a config.

    Args:
        cfg: A config of mmsegmentation, mmdetection or mmpretrain.
        shape: Height and width of the input; by default what the config tests with.
        batch_size, runs: Of the throughput; no runs leave it out.
        metric: From elsewhere.

    Returns:
        The point.
    """
    cost = count_config(cfg, shape)
    series, label = _series(cfg)
    total = cost.parts['total']
    speed = measure_throughput(cfg, shape or cost.shape, batch_size, runs) if runs else None
    return Point(Path(cfg.filename or '').stem, series, label, total.params, total.macs,
                 hidden_width(build_model(cfg)), speed, metric)


def read_metric(path: Union[str, Path], name: str) -> float:
    """Read a metric from a result file of ``tools/test.py``.

    Args:
        path: A JSON file, or the work folder of a test, in which the newest result counts.
        name: Such as ``mIoU``, ``coco/bbox_mAP`` or ``accuracy/top1``.

    Returns:
        The value.

    Raises:
        FileNotFoundError: There is no result.
        ValueError: It does not have this metric.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(path.glob('*/*.json'), key=lambda p: p.stat().st_mtime)
        if not found:
            raise FileNotFoundError(f'no result of a test, */*.json, in {path}')
        path = found[-1]
    if not path.is_file():
        raise FileNotFoundError(f'result not found: {path}')
    try:
        content = json.loads(path.read_text())
    except ValueError:
        raise ValueError(f'{path}: expected the JSON that tools/test.py writes') from None
    if not isinstance(content, dict) or not isinstance(content.get(name), (int, float)):
        known = [k for k, v in content.items() if isinstance(v, (int, float))] if isinstance(
            content, dict) else []
        raise ValueError(f'{path}: no metric {name!r}, found {known}')
    return float(content[name])


def plot_pareto(points: Sequence[Point], out: Union[str, Path], metric: str = '') -> None:
    """Draw metric or width against multiply-adds, parameters and throughput.

    Args:
        points: The models.
        out: File to write; its suffix decides the format.
        metric: Name of the metric; empty for the width.
    """
    panels: List[Tuple[str, Dict[str, float]]] = [
        ('multiply-adds (G)', {p.name: p.macs / 1e9 for p in points}),
        ('parameters (M)', {p.name: p.params / 1e6 for p in points})]
    timed = [p for p in points if p.throughput]
    if timed:
        panels.append((f'images/s ({timed[0].throughput.device})',  # type: ignore[union-attr]
                       {p.name: p.throughput.median for p in timed if p.throughput}))
    figure, (axes, ) = new_figure(len(panels), 1, (4.3 * len(panels) + 0.4, 3.9), sharey=True)
    series = list(dict.fromkeys(p.series for p in points))
    for ax, (title, values) in zip(axes, panels):
        for i, name in enumerate(series):
            members = sorted((p for p in points if p.series == name and p.name in values),
                             key=lambda p: values[p.name])
            xs = [values[p.name] for p in members]
            ys = [_height(p, metric) for p in members]
            ax.plot(xs, ys, marker='os^Dv*'[i % 6], color=f'C{i}', label=name, linewidth=1.2)
            for p, x, y in zip(members, xs, ys):
                ax.annotate(p.label, (x, y), xytext=(6, -11), textcoords='offset points',
                            fontsize=9, color=f'C{i}')
                if p.throughput and title.startswith('images/s'):
                    ax.plot([p.throughput.low, p.throughput.high], [y, y], color=f'C{i}',
                            linewidth=3, alpha=0.35)
        ax.set_xlabel(title)
        ax.margins(x=0.16, y=0.12)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel(metric or 'hidden channels of all FFNs')
    axes[0].legend(frameon=False)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


def _height(point: Point, metric: str) -> float:
    return point.metric if metric and point.metric is not None else point.width


def _text(points: Sequence[Point], metric: str) -> str:
    width = max(len(p.name) for p in points)
    lines = [f'{"":{width}}{"parameters":>14}{"multiply-adds":>16}{"width":>9}'
             f'{"images/s (middle half)":>30}' + (f'{metric:>18}' if metric else '')]
    for p in points:
        speed = '-' if p.throughput is None else (
            f'{p.throughput.median:.2f} ({p.throughput.low:.2f} to {p.throughput.high:.2f})')
        lines.append(f'{p.name:{width}}{p.params / 1e6:>12.3f} M{p.macs / 1e9:>14.3f} G'
                     f'{p.width:>9}{speed:>30}' + (f'{p.metric:>18.6g}' if metric else ''))
    return '\n'.join(lines)


def main(argv: Optional[List[str]] = None) -> None:
    """Measure, draw and print a table."""
    parser = argparse.ArgumentParser(
        description='Measure models, and draw a metric, or their hidden width, against '
        'multiply-adds, parameters and throughput.', epilog=COUNTER)
    parser.add_argument('configs', nargs='+', metavar='CONFIG')
    parser.add_argument('--results', nargs='+', metavar='FILE',
                        help='a result of tools/test.py for each config, in their order: a JSON '
                        'file or a work folder')
    parser.add_argument('--metric', help='metric of the results, such as mIoU, coco/bbox_mAP or '
                        'accuracy/top1')
    add_shape_argument(parser)
    parser.add_argument('--batch-size', type=int, default=1, metavar='N',
                        help='images per batch for the throughput (default: 1)')
    parser.add_argument('--runs', type=int, default=10,
                        metavar='N',
                        help='runs for the throughput (default: 10); 0 leaves it out')
    parser.add_argument('--out', default='pareto.png', metavar='FILE',
                        help='picture to write (default: pareto.png)')
    parser.add_argument('--json', metavar='FILE', help='also write the results as JSON')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='change values of all configs')
    parser.add_argument('--debug', action='store_true', help='print the traceback of an error')
    args = parser.parse_args(argv)
    with user_errors(args.debug):
        shape = read_shape(args.shape)
        if args.batch_size < 1 or args.runs < 0:
            raise ValueError('--batch-size and --runs: expected positive numbers')
        if bool(args.results) != bool(args.metric):
            raise ValueError('--results and --metric belong together')
        if args.results and len(args.results) != len(args.configs):
            raise ValueError(f'--results: expected one for each of {len(args.configs)} configs, '
                             f'found {len(args.results)}')
        metrics: List[Optional[float]] = [None] * len(args.configs)
        if args.results:
            metrics = [read_metric(path, args.metric) for path in args.results]
        cfgs = [load_config(path, cfg_options=args.cfg_options) for path in args.configs]
        with quiet():
            points = [measure(cfg, shape, args.batch_size, args.runs, value)
                      for cfg, value in track_iter_progress(list(zip(cfgs, metrics)))]
        plot_pareto(points, args.out, args.metric or '')
        if args.json:
            content: List[Dict[str, Any]] = [
                {**p._asdict(), 'throughput': p.throughput and p.throughput._asdict()}
                for p in points]
            Path(args.json).write_text(json.dumps(content, indent=1))
    print(f'\n{_text(points, args.metric or "")}\n\n{Path(args.out).resolve()}')


if __name__ == '__main__':
    main()
