"""Time our layers, models or exported files against others, in turns in one process.

``mixer`` and ``backbone`` compare with what ``benchmarks/contenders.py`` of a clone has.
"""
import argparse
import json
import os
import sys
from copy import deepcopy
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from statistics import geometric_mean
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple

import torch
from mmengine import Config
from mmengine.config import DictAction

from mmscheme.analysis.random_batch import input_shape, random_batch
from mmscheme.analysis.throughput import (
    OURS,
    Ceilings,
    Contest,
    Timing,
    ceilings,
    environment,
    take_turns,
)
from mmscheme.apis.config import load_config
from mmscheme.deploy.timing import RUNTIMES, open_in, operator_times, random_inputs
from mmscheme.models.backbones.schemeformer import ARCHS
from mmscheme.models.loading import build_model
from mmscheme.ops import IMPLEMENTATIONS
from mmscheme.utils.config_query import step_name
from mmscheme.utils.user_errors import user_errors
from mmscheme.visualization.figures import new_figure

_DTYPES = dict(float32=torch.float32, bfloat16=torch.bfloat16, float16=torch.float16)
_MOST_OPERATORS = 12
_DENSE = dict(groups=(1, 1), expansion=4, cca=False)


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Time ours against others, in turns in one process. WORK is "mixer" for the '
        'channel mixer at the shapes of each stage, "backbone" for the whole backbone (both need '
        'a clone), the path of a config for its model, or "exported" for exported files, the '
        'first of which counts as ours.')
    parser.add_argument('work', metavar='WORK',
                        help='"mixer", "backbone", "exported" or the path of a config')
    parser.add_argument('files', nargs='*', metavar='FILE.onnx',
                        help='with "exported": files written by export')
    parser.add_argument('--runtimes', nargs='+', choices=RUNTIMES, default=list(RUNTIMES),
                        help='runtimes for the files (default: all)')
    parser.add_argument('--operators', action='store_true',
                        help='with "exported": also print the time of each kind of operator')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='change values of the config')
    parser.add_argument('--debug', action='store_true', help='print the traceback of an error')
    parser.add_argument('--arch', choices=sorted(ARCHS), default='s12',
                        help='SCHEMEformer of "mixer" and "backbone" (default: s12)')
    parser.add_argument('--batch', type=int, default=8, metavar='N',
                        help='images per batch (default: 8)')
    parser.add_argument('--size', type=int, nargs='+', metavar='N',
                        help='height and width of the images in pixels, or one number for both '
                        '(default: 224, or what the config trains or tests with)')
    parser.add_argument('--training', action='store_true',
                        help='time forward and backward pass with CCA instead of inference')
    parser.add_argument('--device', default='cpu', help='cpu or cuda (default: cpu)')
    parser.add_argument('--dtype', choices=sorted(_DTYPES), default='float32',
                        help='type of the numbers (default: float32)')
    parser.add_argument('--channels-first', action='store_true',
                        help='give our channel mixer its input in this memory format')
    parser.add_argument('--channels-last', action='store_true',
                        help='give the backbones their images in this memory format')
    parser.add_argument('--groups', type=int, nargs=2, default=(4, 4), metavar=('G1', 'G2'),
                        help='groups of the two layers (default: 4 4)')
    parser.add_argument('--expansion', type=int, default=8, metavar='E',
                        help='hidden width divided by input width (default: 8)')
    parser.add_argument('--implementation', choices=IMPLEMENTATIONS, default='auto',
                        help='implementation of the channel mixers in backbones (default: auto)')
    parser.add_argument('--compile', action='store_true',
                        help='compile the backbones with torch.compile')
    parser.add_argument('--rounds', type=int, default=7, metavar='N',
                        help='rounds of measurement, at least 2 (default: 7)')
    parser.add_argument('--seconds', type=float, default=0., metavar='T',
                        help='add rounds until this many seconds have passed (default: 0)')
    parser.add_argument('--threads', type=int, metavar='N',
                        help='threads of torch on the CPU (default: as torch decides)')
    parser.add_argument('--json', metavar='FILE', help='also write the results as JSON')
    parser.add_argument('--out', metavar='FILE',
                        help='also draw the results, for example to times.png')
    args = parser.parse_args(argv)
    if bool(args.files) != (args.work == 'exported'):
        parser.error('expected files after "exported", and nowhere else')
    for name, least in (('batch', 1), ('rounds', 2), ('expansion', 1)):
        if getattr(args, name) < least:
            parser.error(f'--{name}: expected at least {least}, found {getattr(args, name)}')
    if args.size and (len(args.size) > 2 or min(args.size) < 1):
        parser.error(f'--size: expected one or two sizes, found {args.size}')
    return args


def config_models(cfg: Config, batch: int, size: Tuple[int, int], device: torch.device,
                  training: bool) -> Contest:
    """Compare a config's whole model with its backbone as it is, plain and dense.

    Args:
        cfg: A config of mmsegmentation, mmdetection or mmpretrain.
        batch, size, device: Of random images.
        training: Times loss and gradients; else prediction.
    """
    changes: Dict[str, Dict[str, Any]] = {OURS: {}}
    if step_name(cfg.model.backbone) == 'SCHEMEformer':
        changes.update({'ours, plain': dict(implementation='plain'), 'dense PPAA': _DENSE})
    runs = {}
    for name, change in changes.items():
        changed = deepcopy(cfg)
        changed.model.backbone.update(change)
        model = build_model(changed).to(device).train(training)
        runs[name] = _model_step(model, random_batch(cfg, size, batch), training)
    return Contest(f'{batch} x {size[0]}x{size[1]}', runs)


def _model_step(model: Any, batch: Dict[str, Any], training: bool) -> Callable[[], Any]:
    def infer() -> None:
        with torch.inference_mode():
            data = model.data_preprocessor(deepcopy(batch), False)
            model(data['inputs'], data['data_samples'], mode='predict')

    def train() -> None:
        data = model.data_preprocessor(deepcopy(batch), True)
        losses = model(data['inputs'], data['data_samples'], mode='loss')
        model.parse_losses(losses)[0].backward()
        model.zero_grad()
    return train if training else infer


def _contenders() -> Any:
    """Load the contests of mixers and backbones, which only a clone has."""
    path = Path(__file__).resolve().parents[2] / 'benchmarks' / 'contenders.py'
    spec = spec_from_file_location('contenders', path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ValueError('work: mixer and backbone need a clone of mmscheme, which has '
                         'benchmarks/; expected the path of a config here')
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _contests(args: argparse.Namespace, device: torch.device) -> Iterable[Contest]:
    size: Tuple[int, int] = (224, 224)
    dtype = _DTYPES[args.dtype]
    if args.size:
        size = (args.size[0], args.size[-1])
    if args.work == 'mixer':
        if min(size) < 32:
            raise ValueError(f'--size: the last stage needs at least 32, found {min(size)}')
        return _contenders().mixers(args.arch, args.batch, size, device, dtype, args.training,
                                    not args.channels_first, tuple(args.groups), args.expansion)
    if args.work == 'backbone':
        return [_contenders().backbones(args.arch, args.batch, size, device, dtype, args.training,
                                        args.channels_last,
                                        'inductor' if args.compile else '', args.implementation)]
    if not Path(args.work).is_file():
        raise ValueError(f'work: expected mixer, backbone or the path of a config, '
                         f'found {args.work!r}')
    cfg = load_config(args.work, cfg_options=args.cfg_options)
    return [config_models(cfg, args.batch, size if args.size else input_shape(cfg), device,
                          args.training)]


def benchmark(contests: Iterable[Contest], device: torch.device, limits: Ceilings,
              rounds: int = 7, seconds: float = 0.) -> Iterator[Dict[str, Any]]:
    """Time contests one after the other.

    Args:
        contests: Each is a set of alternatives.
        device: Where they run.
        limits: Of the machine.
        rounds, seconds: See :func:`mmscheme.analysis.throughput.take_turns`.

    Yields:
        For each contest its name, the floor of ours in seconds or None, and the timing of
        each alternative with its time over that of ours as ``ratio``.
    """
    for contest in contests:
        floor = None
        if contest.macs is not None and contest.bytes_ is not None:
            floor = limits.floor(contest.macs, contest.bytes_)
        found = take_turns(contest.runs, device, rounds, seconds)
        yield dict(name=contest.name, floor=floor, runs=_with_ratios(found))


def benchmark_files(files: List[str], runtimes: List[str], batch: int,
                    size: Optional[Tuple[int, int]], threads: int, rounds: int = 7,
                    seconds: float = 0., operators: bool = False) -> List[Dict[str, Any]]:
    """Time exported files in every runtime, all of them in turns.

    Args:
        files: ``*.onnx``; the others are compared with the first.
        runtimes: Of :data:`mmscheme.deploy.timing.RUNTIMES`.
        batch, size: See :func:`mmscheme.deploy.timing.random_inputs`.
        threads: Of each runtime.
        rounds, seconds: See :func:`mmscheme.analysis.throughput.take_turns`.
        operators: Adds the seconds by kind of operator.

    Returns:
        As :func:`benchmark` yields, one a runtime. With several runtimes there is one more: each
        file in that which runs it fastest.
    """
    if len(set(files)) < len(files):
        raise ValueError(f'expected each file once, found {" ".join(files)}')
    inputs = {file: random_inputs(file, batch, size) for file in files}
    found = take_turns({f'{runtime} {file}': open_in(runtime, file, inputs[file], threads)
                        for runtime in runtimes for file in files},
                       torch.device('cpu'), rounds, seconds)
    results = []
    for runtime in runtimes:
        timings = {file: found[f'{runtime} {file}'] for file in files}
        results.append(dict(name=runtime, floor=None, runs=_with_ratios(timings)))
        if operators:
            results[-1]['operators'] = {
                file: operator_times(runtime, file, inputs[file], threads, rounds)
                for file in files}
    if len(runtimes) > 1:
        results.append(dict(name='faster runtime of each', floor=None, runs=_with_ratios(
            {file: min((found[f'{runtime} {file}'] for runtime in runtimes),
                       key=lambda timing: timing.seconds) for file in files})))
    return results


def _with_ratios(timings: Dict[str, Timing]) -> Dict[str, Dict[str, Any]]:
    """Add each time over that of the first."""
    first = next(iter(timings.values()))
    return {name: dict(timing._asdict(), ratio=timing.seconds / first.seconds)
            for name, timing in timings.items()}


def summary(results: List[Dict[str, Any]]) -> Dict[str, Dict[str, float]]:
    """Summarise the times of the others over that of ours, over all results.

    Returns:
        By name ``mean``, the geometric mean, and ``least``, the smallest. ``'best dense'``
        is in each result the fastest of those whose name starts with ``dense``.
    """
    ratios: Dict[str, List[float]] = {}
    for result in results:
        runs = {name: run['ratio'] for name, run in list(result['runs'].items())[1:]}
        dense = [ratio for name, ratio in runs.items()
                 if name.startswith('dense') and not name.endswith('compiled')]
        if len(dense) > 1:
            runs['best dense'] = min(dense)
        for name, ratio in runs.items():
            ratios.setdefault(name, []).append(ratio)
    return {name: dict(mean=geometric_mean(values), least=min(values))
            for name, values in ratios.items()}


def _table(result: Dict[str, Any]) -> str:
    lines = [f'{result["name"]:34}{"median":>11}{"spread":>9}{"ratio":>8}{"peak":>11}']
    for name, run in result['runs'].items():
        peak = '' if run['peak'] is None else f'{run["peak"] / 2**20:.1f} MiB'
        lines.append(f'  {name[-32:]:32}{run["seconds"] * 1e3:>8.2f} ms{run["spread"]:>8.0%}'
                     f'{run["ratio"]:>8.2f}{peak:>11}')
    if result['floor']:
        share = result['floor'] / result['runs'][OURS]['seconds']
        lines.append(f'  {"floor of ours":32}{result["floor"] * 1e3:>8.2f} ms; ours is at '
                     f'{share:.0%} of it')
    for file, kinds in result.get('operators', {}).items():
        lines.append(f'  operators of {file}')
        lines += [f'    {kind:50}{seconds * 1e3:>8.2f} ms' for kind, seconds in
                  list(kinds.items())[:_MOST_OPERATORS]]
    return '\n'.join(lines)


def draw(results: List[Dict[str, Any]], title: str, path: str) -> None:
    """Draw the times of each result's alternatives as bars, in units of ours."""
    figure, (axes, ) = new_figure(len(results), 1, (3.2 * len(results) + 2, 4))
    figure.suptitle(title, fontsize=10)
    for axis, result in zip(axes, results):
        names = list(result['runs'])[::-1]
        ratios = [result['runs'][name]['ratio'] for name in names]
        bars = axis.barh(range(len(names)), ratios,
                         color=['#c0392b' if n == names[-1] else '#95a5a6' for n in names])
        axis.bar_label(bars, [f'{r:.2f}' for r in ratios], padding=2, fontsize=8)
        axis.set_yticks(range(len(names)), names if axis is axes[0] else [''] * len(names),
                        fontsize=8)
        axis.set_title(result['name'], fontsize=9)
        axis.set_xlim(0, 1.2 * max(ratios))
        axis.set_xlabel('time / ours', fontsize=8)
        if result['floor']:
            axis.axvline(result['floor'] / result['runs'][OURS]['seconds'], color='k', ls=':')
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    figure.savefig(path, dpi=120)


def main(argv: Optional[List[str]] = None) -> None:
    """Print a table a contest, and a summary."""
    args = parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    with user_errors(args.debug):
        device = torch.device(args.device)
        if device.type == 'cuda' and not torch.cuda.is_available():
            raise ValueError('--device cuda: torch finds no GPU')
        exported = args.work == 'exported'
        contests = [] if exported else _contests(args, device)
        facts = environment(device)
        limits = ceilings(device, _DTYPES[args.dtype])
        what = (f'{args.work} files' if exported else
                f'{args.work}, {"training step" if args.training else "inference"}, {args.dtype}')
        print(f'{what}\n{facts["device"]}, {facts["threads"]} threads, torch {facts["torch"]}, '
              f'load {facts["load"]}, allocator {facts["allocator"]}\n'
              f'matrix products {limits.flops / 1e9:.0f} GFLOP/s, copies '
              f'{limits.bandwidth / 1e9:.1f} GB/s; ratio: time over ours; spread: quartiles\n')
        results: List[Dict[str, Any]] = []
        found = benchmark_files(
            args.files, args.runtimes, args.batch, (args.size[0], args.size[-1]) if args.size
            else None, facts['threads'], args.rounds, args.seconds, args.operators
        ) if exported else benchmark(contests, device, limits, args.rounds, args.seconds)
        for result in found:
            results.append(result)
            print(_table(result) + '\n', flush=True)
    over = {} if exported else summary(results)
    if over and len(results) > 1:
        print('time over ours, geometric mean (least):\n' + '\n'.join(
            f'  {name:32}{r["mean"]:>8.2f} ({r["least"]:.2f})' for name, r in over.items()))
    if args.json:
        os.makedirs(os.path.dirname(os.path.abspath(args.json)), exist_ok=True)
        Path(args.json).write_text(json.dumps(dict(
            command=sys.argv[1:] if argv is None else argv, environment=facts,
            ceilings=limits._asdict(), results=results, summary=over), indent=1))
    if args.out:
        draw(results, f'{what}; {facts["device"]}', args.out)
        print(f'picture: {Path(args.out).resolve()}')


if __name__ == '__main__':
    main()
