"""Export ours and what it stands for, and time the files in onnxruntime and OpenVINO in turns.

``write DIR`` exports what is missing in the folder (an hour on two cores, without checks of the
outputs), ``time DIR`` times what is there (about 20 minutes on two idle cores) and writes JSON,
``table JSON`` puts the tables made of it into docs/performance.md.
"""
import argparse
import json
import re
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import mmpretrain
import numpy as np
import torch
from mmengine import Config
from torch import nn

from mmscheme.analysis.throughput import environment, take_turns
from mmscheme.deploy.export import describe, write_graph
from mmscheme.deploy.fold import fold
from mmscheme.deploy.graphs import build_graph, replace_adaptive_pooling
from mmscheme.deploy.quantize import write_int8
from mmscheme.deploy.timing import RUNTIMES, open_in, random_inputs
from mmscheme.layers import BlockDiagonalMLP
from mmscheme.models.backbones.schemeformer import ARCHS
from mmscheme.models.loading import build_model
from mmscheme.utils.markdown import markdown_table
from mmscheme.utils.quiet import quiet

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs'
STOCK = Path(mmpretrain.__file__).parent / '.mim' / 'configs'
PAGE = ROOT / 'docs' / 'performance.md'
RESULTS = ROOT / 'benchmarks' / 'results' / 'exported.json'

SIDES = dict(ours='ours', dense='dense', e2='dense E=2', stock='stock', before='before')
# The config of each network, and its changes that make it dense, and dense of half the width.
DENSE = dict(groups=(1, 1), expansion=4, cca=False)
NARROW = dict(DENSE, expansion=2)
SCHEMEFORMER = dict(ours={}, dense=DENSE, e2=NARROW)
CLASSIFIERS = dict(
    s12='cls_scheme_s_in1k.py', deit_s='plug_in/cls_deit_s_44e8_in1k.py',
    swin_t='plug_in/cls_swin_t_44e8_in1k.py')
PLUG_IN_STOCK = dict(deit_s='deit/deit-small_4xb256_in1k.py',
                     swin_t='swin_transformer/swin-tiny_16xb64_in1k.py')
PLUG_IN_NARROW = dict(
    deit_s=dict(arch=dict(embed_dims=384, num_layers=12, num_heads=6, feedforward_channels=768)),
    swin_t=dict(stage_cfgs=dict(block_cfgs=dict(ffn_ratio=2.))))
TASKS = dict(
    semantic_fpn='semantic_fpn_scheme_s_ade20k.py',
    segformer_head='semantic_fpn_scheme_s_ade20k.py', upernet='upernet_scheme_s_ade20k.py',
    retinanet='retinanet_scheme_s_coco.py', mask_rcnn='mask_rcnn_scheme_s_coco.py')
SEGFORMER_HEAD = dict(type='SegformerHead', in_channels=ARCHS['s12']['embed_dims'],
                      in_index=[0, 1, 2, 3], channels=256, num_classes=150, align_corners=False,
                      norm_cfg=dict(type='SyncBN', requires_grad=True))
POOLFORMER = dict(type='mmpretrain.PoolFormer', arch='s12')
TITLES = dict(
    s12='SCHEMEformer-S12', deit_s='DeiT-S', swin_t='Swin-T', semantic_fpn='Semantic FPN',
    segformer_head='SegFormer\'s head', upernet='UPerNet', retinanet='RetinaNet',
    mask_rcnn='Mask R-CNN')
CASES = [(1, 224), (8, 224), (1, 512), (8, 512)]
WHOLE = (1, 512)
# Objects in each image of Mask R-CNN: its mask head costs as many times its arithmetic.
OBJECTS = 20
QUANTIZERS = dict(onnxruntime='onnxruntime', openvino='nncf')


class Case(NamedTuple):
    """Files for the same work.

    Attributes:
        name: Of the work.
        files: By runtime and side.
    """
    name: str
    files: Dict[str, Dict[str, Path]]


def _set_image_size(node: Any, size: int) -> None:
    """Change ``img_size`` wherever a backbone has one."""
    if isinstance(node, dict):
        if 'img_size' in node or node.get('type') == 'VisionTransformer':
            node['img_size'] = size
        for child in node.values():
            _set_image_size(child, size)


def make_config(name: str, side: str, size: int) -> Config:
    """Return the config of a network or task with one of the backbones that are compared."""
    plug_in = name in PLUG_IN_STOCK
    if plug_in and side != 'ours':
        cfg = Config.fromfile(STOCK / PLUG_IN_STOCK[name])
        cfg.model.backbone.update(PLUG_IN_NARROW[name] if side == 'e2' else {})
    else:
        cfg = Config.fromfile(CONFIGS / {**CLASSIFIERS, **TASKS}[name])
    if side == 'stock' and not plug_in:
        wanted = cfg.model.backbone.get('out_indices')
        if name == 's12':
            cfg = Config.fromfile(STOCK / 'poolformer' / 'poolformer-s12_32xb128_in1k.py')
        else:
            cfg.model.backbone = dict(
                POOLFORMER, out_indices=[2 * i for i in wanted or range(4)])
    elif not plug_in:
        cfg.model.backbone.update(SCHEMEFORMER[side])
    if name == 'segformer_head':
        cfg.model.neck, cfg.model.decode_head = None, SEGFORMER_HEAD
    if name == 'mask_rcnn':
        cfg.model.test_cfg.rcnn.max_per_img = OBJECTS
    _set_image_size(cfg.model, size)
    return cfg


def write_model(name: str, side: str, batch: int, size: int, target: Path) -> None:
    """Export a model with random weights."""
    cfg = make_config(name, side, size)
    torch.manual_seed(0)
    model = build_model(cfg)
    if name == 'mask_rcnn':  # objects, as in a trained detector
        layer = model.roi_head.bbox_head.fc_cls
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        layer.bias.data[0] = 5
    graph, left_out = build_graph(fold(model), cfg.default_scope, (size, size))
    if left_out:
        raise ValueError(left_out)
    replace_adaptive_pooling(graph.model, graph, graph.example((size, size)))
    with quiet():
        write_graph(graph, (size, size), target,
                    describe(cfg, graph, {}, (size, size), False, batch), False)


def write_mixer(stage: int, kind: str, side: str, size: int, target: Path) -> None:
    """Export a channel mixer of S12 alone."""
    channels, edge = ARCHS['s12']['embed_dims'][stage], size // (4 * 2**stage)
    mixer = BlockDiagonalMLP(channels) if side == 'ours' else BlockDiagonalMLP(
        channels, (4 if side == 'dense' else 2) * channels, 1)
    shape = (1, channels, edge, edge) if kind == 'map' else (1, edge**2, channels)
    torch.onnx.export(mixer.eval(), (torch.randn(shape), ), str(target), dynamo=True,
                      verbose=False, input_names=['x'], external_data=False)


def float_files(folder: Path) -> Iterator[Tuple[str, Dict[str, Path], Callable[[str, Path], None]]]:
    """Yield each case in float32: its name, files by side, and what writes one."""
    for size in (224, 512):
        for kind in ('map', 'tokens'):
            for stage in range(4):
                name = f'mixer{stage}_{kind}_{size}'
                yield name, {s: folder / f'{name}_{s}.onnx' for s in ('ours', 'dense', 'e2')}, (
                    lambda side, path, a=(stage, kind), b=size: write_mixer(*a, side, b, path))
    cases = [(network, *case) for case in CASES for network in CLASSIFIERS]
    for network, batch, size in cases + [(task, *WHOLE) for task in TASKS]:
        sides = ['ours', 'dense']
        if batch == 1:
            sides += ['e2'] if network in PLUG_IN_STOCK else ['e2', 'stock']
        name = f'{network}_{batch}x{size}'
        yield name, {s: folder / f'{name}_{s}.onnx' for s in sides}, (
            lambda side, path, a=network, b=batch, c=size: write_model(a, side, b, c, path))


def int8_files(folder: Path) -> Iterator[Case]:
    """Yield each case in INT8, which has a file for each runtime."""
    for name in ['s12_1x224', *(f'mixer{stage}_map_224' for stage in range(4))]:
        yield Case(name, {runtime: {
            side: folder / f'{name}_{side}_int8_{quantizer}.onnx'
            for side in ('ours', 'dense', 'e2')} for runtime, quantizer in QUANTIZERS.items()})


def noise(path: Path) -> Dict[str, Any]:
    """Return inputs of noise for a file, a mixer or a whole model."""
    found = re.match(r'mixer(\d)_(map|tokens)_(\d+)_', path.name)
    if not found:
        return random_inputs(path, 1, None)
    stage, kind, size = int(found[1]), found[2], int(found[3])
    channels, edge = ARCHS['s12']['embed_dims'][stage], size // (4 * 2**stage)
    shape = (1, channels, edge, edge) if kind == 'map' else (1, edge**2, channels)
    return dict(x=np.random.default_rng(0).standard_normal(shape, np.float32))


def write(folder: Path, only: List[str]) -> None:
    """Write the files that are missing."""
    def attempt(target: Path, make: Callable[[], None]) -> None:
        if target.exists() or only and not any(target.name.startswith(part) for part in only):
            return
        print(target.name, flush=True)
        part = target.with_suffix('.part.onnx')
        try:
            make()
            part.rename(target)
        except (ImportError, ValueError, RuntimeError) as e:
            print(f'{target.name}: {e}', file=sys.stderr, flush=True)
        finally:
            part.unlink(missing_ok=True)

    for _, files, make in float_files(folder):
        for side, path in files.items():
            attempt(path, lambda s=side, p=path, m=make: m(s, p.with_suffix('.part.onnx')))
    for case in int8_files(folder):
        for runtime, sides in case.files.items():
            for side, path in sides.items():
                source = folder / f'{case.name}_{side}.onnx'
                attempt(path, lambda s=source, p=path, q=QUANTIZERS[runtime]: write_int8(
                    s, p.with_suffix('.part.onnx'), q, [noise(s)] * 2))


def read_cases(folder: Path) -> Iterator[Case]:
    """Yield the cases whose files are there, ours and dense at least."""
    cases = [Case(name, dict.fromkeys(RUNTIMES, files)) for name, files, _ in float_files(folder)]
    before = folder / 'before.onnx'
    for case in cases:
        if case.name == 's12_1x224':
            case.files.update({r: dict(files, before=before) for r, files in case.files.items()})
    cases += [Case(f'{case.name}_int8', case.files) for case in int8_files(folder)]
    for case in cases:
        files = {runtime: {side: path for side, path in sides.items() if path.exists()}
                 for runtime, sides in case.files.items()}
        files = {runtime: sides for runtime, sides in files.items() if 'dense' in sides}
        if files and all('ours' in sides for sides in files.values()):
            yield Case(case.name, files)


def time_case(case: Case, rounds: int, threads: int) -> Dict[str, Dict[str, List[float]]]:
    """Return median and spread by runtime and side."""
    inputs = noise(next(iter(case.files.values()))['ours'])
    times: Dict[str, Dict[str, List[float]]] = {}
    for runtime, sides in case.files.items():
        if not find_spec(runtime):
            continue
        # A runtime at a time, because the system may reclaim memory of models that wait long.
        runs = {side: open_in(runtime, path, inputs, threads) for side, path in sides.items()}
        times[runtime] = {
            side: [timing.seconds, timing.spread]
            for side, timing in take_turns(runs, torch.device('cpu'), rounds).items()}
    return times


def time_all(folder: Path, rounds: int, threads: int, only: List[str]) -> Iterator[Tuple[str, Any]]:
    """Yield the times of each case; print the time of ours, and that of the others over it."""
    for case in read_cases(folder):
        if only and not any(case.name.startswith(part) for part in only):
            continue
        found = time_case(case, rounds, threads)
        for runtime, sides in found.items():
            ours = sides['ours'][0]
            print(f'{case.name:28} {runtime:12} ours {1e3 * ours:8.2f} ms' + ''.join(
                f', {SIDES[s]} {t / ours:.2f}' for s, (t, _) in sides.items() if s != 'ours')
                + f' (spread up to {max(spread for _, spread in sides.values()):.0%})', flush=True)
        yield case.name, found


def _ratio(found: Dict[str, Dict[str, List[float]]], side: str, runtime: Optional[str]) -> str:
    """Return another side's time over ours; without a runtime of each one's fastest."""
    chosen = [sides for r, sides in found.items() if runtime in (None, r)]
    times = [[sides[s][0] for sides in chosen if s in sides] for s in ('ours', side)]
    return f'{min(times[1]) / min(times[0]):.2f}' if all(times) else ''


def _table(title: str, header: List[str], rows: List[List[str]]) -> List[str]:
    return ['', title, '', markdown_table(header, rows)] if rows else []


def make_tables(data: Dict[str, Any]) -> str:
    """Return the tables of the page in Markdown."""
    results, facts = data['results'], data['environment']
    short = dict(onnxruntime='ort', openvino='ov')
    spread = max(s for case in results.values() for sides in case.values()
                 for _, s in sides.values())
    lines = [f'{facts["device"]}, {data["threads"]} threads, {data["rounds"]} rounds, spread of '
             f'the quartiles up to {spread:.0%}, load before the run {facts["load"]}; '
             + ', '.join(f'{k} {v}' for k, v in data['versions'].items()) + '.']

    def ms(found: Dict[str, Any], runtime: str) -> str:
        return f'{1e3 * found[runtime]["ours"][0]:.1f}' if runtime in found else ''

    def ratios(found: Dict[str, Any], sides: List[str]) -> List[str]:
        return [_ratio(found, side, runtime) for side in sides for runtime in RUNTIMES]

    headers = [f'{SIDES[side]}, {short[r]}' for side in ('dense', 'e2', 'stock') for r in RUNTIMES]
    times = [f'ours, {short[r]}, ms' for r in RUNTIMES]
    lines += _table(
        '**Classifiers**, float32, time of the other over ours (ort: onnxruntime, ov: OpenVINO; '
        'the last column is the faster runtime of each):',
        ['', 'batch x size', *times, *headers, 'best dense over best ours'], [
        [TITLES[network], f'{batch} x {size}^2', *(ms(found, r) for r in RUNTIMES),
         *ratios(found, ['dense', 'e2', 'stock']), _ratio(found, 'dense', None)]
        for network in CLASSIFIERS for batch, size in CASES
        for found in [results.get(f'{network}_{batch}x{size}')] if found])
    alone = results.get(f's12_{WHOLE[0]}x{WHOLE[1]}', {})
    lines += _table(
        '**Whole models**, float32, 1 x 512^2; backbone: its share of the time of ours (S12 alone '
        f'over the whole; Mask R-CNN with {OBJECTS} objects):',
        ['', *times, *(f'backbone, {short[r]}' for r in RUNTIMES), *headers], [
        [TITLES[task], *(ms(found, r) for r in RUNTIMES),
         *(f'{alone[r]["ours"][0] / found[r]["ours"][0]:.0%}' if {r} <= alone.keys() & found.keys()
           else '' for r in RUNTIMES), *ratios(found, ['dense', 'e2', 'stock'])]
        for task in ('s12', *TASKS) for found in [results.get(f'{task}_{WHOLE[0]}x{WHOLE[1]}')]
        if found])
    rows = []
    for kind, suffix in (('map', ''), ('tokens', ''), ('map', '_int8')):
        for size in (224, 512):
            cases = [results.get(f'mixer{stage}_{kind}_{size}{suffix}', {}) for stage in range(4)]
            rows += [[f'{"INT8, " if suffix else ""}{kind}, 1 x {size}^2, {r}',
                      *(_ratio(found, 'dense', r) if r in found else '' for found in cases)]
                     for r in RUNTIMES if any(r in found for found in cases)]
    lines += _table(
        '**The channel mixer alone**, [44-e8](glossary.md#44-e8) of S12, dense E=4 over ours:',
        ['', *(f'stage {stage}' for stage in range(1, 5))], rows)
    int8, plain = results.get('s12_1x224_int8', {}), results.get('s12_1x224', {})
    lines += _table(
        '**S12 in INT8**, 1 x 224^2:',
        ['', 'ours, ms', 'its float32 over it', 'dense INT8', 'dense E=2 INT8'], [
        [r, ms(int8, r), f'{plain[r]["ours"][0] / int8[r]["ours"][0]:.2f}' if r in plain else '',
         _ratio(int8, 'dense', r), _ratio(int8, 'e2', r)] for r in RUNTIMES if r in int8])
    return '\n'.join(lines)


def write_tables(source: Path) -> None:
    """Put the tables into the page, between its marks."""
    text = PAGE.read_text()
    start, end = '<!-- exported: benchmarks/exported.py table -->\n', '<!-- exported: end -->'
    before, rest = text.split(start)
    after = rest.split(end)[1]
    tables = make_tables(json.loads(source.read_text()))
    PAGE.write_text(f'{before}{start}\n{tables}\n\n{end}{after}')


def main(argv: Optional[List[str]] = None) -> None:
    """Write the files, time them, or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('what', choices=('write', 'time', 'table'),
                        help='write the files, time those that are there, or write the tables')
    parser.add_argument('path', type=Path, help='folder of the files; for table, the JSON file')
    parser.add_argument('--only', nargs='+', default=[], metavar='NAME',
                        help='write or time only the cases whose names begin so')
    parser.add_argument('--rounds', type=int, default=9, help='rounds of measurement (default: 9)')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads(),
                        help='threads of each runtime (default: as torch decides)')
    parser.add_argument('--json', type=Path, default=RESULTS, metavar='FILE',
                        help=f'results to write (default: {RESULTS.relative_to(ROOT)})')
    args = parser.parse_args(argv)
    if args.what == 'table':
        write_tables(args.path)
        return
    args.path.mkdir(parents=True, exist_ok=True)
    if args.what == 'write':
        write(args.path, args.only)
        return
    facts = environment(torch.device('cpu'))
    print(f'{facts["device"]}, {args.threads} threads, load {facts["load"]}')
    data: Dict[str, Any] = dict(
        environment=facts, threads=args.threads, rounds=args.rounds, results={},
        versions={n: version(n) for n in (*RUNTIMES, 'nncf') if find_spec(n)})
    for name, found in time_all(args.path, args.rounds, args.threads, args.only):
        data['results'][name] = found
        args.json.write_text(json.dumps(data, indent=1) + '\n')


if __name__ == '__main__':
    main()
