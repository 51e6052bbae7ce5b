"""Export ours and what it stands for, and time the files in onnxruntime and OpenVINO in turns.

``write DIR`` exports (half an hour on two cores), ``time DIR`` times what is there.
"""
import argparse
import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import mmpretrain
import torch
from mmengine import Config
from torch import nn

from mmscheme.analysis.throughput import environment, take_turns
from mmscheme.deploy.export import export
from mmscheme.deploy.timing import RUNTIMES, open_in, random_inputs
from mmscheme.layers import BlockDiagonalMLP
from mmscheme.models.backbones.schemeformer import ARCHS
from mmscheme.models.loading import build_model

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
STOCK = Path(mmpretrain.__file__).parent / '.mim' / 'configs'
# Ours, and what it is compared with.
PAIRS = dict(
    s12=(CONFIGS / 'cls_scheme_s_in1k.py', CONFIGS / 'cls_ppaa_s_in1k.py'),
    deit_s=(CONFIGS / 'plug_in' / 'cls_deit_s_44e8_in1k.py',
            STOCK / 'deit' / 'deit-small_4xb256_in1k.py'),
    swin_t=(CONFIGS / 'plug_in' / 'cls_swin_t_44e8_in1k.py',
            STOCK / 'swin_transformer' / 'swin-tiny_16xb64_in1k.py'))
CASES = [(1, 224), (8, 224), (1, 512), (8, 512)]
SIDES = ('ours', 'dense')


def _set_image_size(node: Any, size: int) -> None:
    """Change ``img_size`` wherever a backbone has one."""
    if isinstance(node, dict):
        if 'img_size' in node or node.get('type') == 'VisionTransformer':
            node['img_size'] = size
        for child in node.values():
            _set_image_size(child, size)


def write_model(config: Path, target: Path, batch: int, size: int) -> None:
    """Export the model of a config with random weights."""
    cfg = Config.fromfile(config)
    _set_image_size(cfg.model, size)
    torch.manual_seed(0)
    checkpoint = target.with_suffix('.pth')
    torch.save(dict(state_dict=build_model(cfg).state_dict(), meta={}), checkpoint)
    checks, _ = export(cfg, str(checkpoint), target, (size, size), batch=batch)
    checkpoint.unlink()
    print(f'{target.name}: {max(c.difference for c in checks):.1g}', flush=True)


def write_mixer(mixer: nn.Module, shape: Tuple[int, ...], target: Path) -> None:
    """Export a channel mixer alone."""
    torch.onnx.export(mixer.eval(), (torch.randn(shape), ), str(target), dynamo=True,
                      verbose=False, input_names=['x'], external_data=False)


def mixer_cases() -> List[Tuple[str, int, Tuple[int, ...]]]:
    """Return name, channels and shape of the inputs of the mixers that are timed."""
    return [(f'mixer{stage}_{kind}_{size}', channels,
             (1, channels, side, side) if kind == 'map' else (1, side * side, channels))
            for size in (224, 512) for kind in ('map', 'tokens')
            for stage, channels in enumerate(ARCHS['s12']['embed_dims'])
            for side in [size // (4 * 2**stage)]]


def write(folder: Path, only: List[str]) -> None:
    """Write the files that are missing."""
    for name, channels, shape in mixer_cases():
        for side, mixer in zip(SIDES, (BlockDiagonalMLP(channels),
                                       BlockDiagonalMLP(channels, 4 * channels, 1))):
            target = folder / f'{name}_{side}.onnx'
            if not target.exists():
                write_mixer(mixer, shape, target)
    for name, configs in PAIRS.items():
        for batch, size in CASES:
            for side, config in zip(SIDES, configs):
                target = folder / f'{name}_{batch}x{size}_{side}.onnx'
                if not target.exists() and (not only or name in only):
                    try:
                        write_model(config, target, batch, size)
                    except ValueError as e:
                        print(f'{target.name}: {e}', file=sys.stderr, flush=True)


def time_files(names: List[Path], inputs: Dict[str, Any], rounds: int, threads: int
               ) -> Dict[str, Dict[str, List[float]]]:
    """Return median and spread of each file by runtime."""
    runs = {f'{runtime}|{path}': open_in(runtime, path, inputs, threads)
            for runtime in RUNTIMES for path in names}
    found = take_turns(runs, torch.device('cpu'), rounds)
    return {runtime: {path.name: [found[f'{runtime}|{path}'].seconds,
                                  found[f'{runtime}|{path}'].spread] for path in names}
            for runtime in RUNTIMES}


def time_all(folder: Path, rounds: int, threads: int) -> Dict[str, Any]:
    """Time every pair of files that is there, and the file ``before.onnx`` beside the S12."""
    results: Dict[str, Any] = {}
    cases = [(f'{name}_{b}x{size}', None) for b, size in CASES for name in PAIRS]
    cases += [(name, shape) for name, _, shape in mixer_cases()]
    print(f'{"time of dense over ours (median; spread)":42}' + ''.join(
        f'{r:>28}' for r in (*RUNTIMES, 'best of both')))
    for name, shape in cases:
        paths = [folder / f'{name}_{side}.onnx' for side in SIDES]
        if not all(path.exists() for path in paths):
            continue
        before = folder / 'before.onnx'
        paths += [before] if name == 's12_1x224' and before.exists() else []
        inputs = (random_inputs(paths[0], 1, None) if shape is None
                  else dict(x=torch.randn(shape).numpy()))
        found = time_files(paths, inputs, rounds, threads)
        results[name] = found
        for path in paths[1:]:
            cells = []
            for runtime in RUNTIMES:
                ours, other = found[runtime][paths[0].name], found[runtime][path.name]
                cells.append(f'{1e3 * ours[0]:.2f} ms {other[0] / ours[0]:.2f} '
                             f'({max(ours[1], other[1]):.0%})')
            best = [min(found[r][p.name][0] for r in RUNTIMES) for p in (paths[0], path)]
            print(f'{name + ", " + path.stem.split("_")[-1]:42}' + ''.join(
                f'{c:>28}' for c in (*cells, f'{best[1] / best[0]:.2f}')), flush=True)
    return results


def main(argv: Optional[List[str]] = None) -> None:
    """Write the files, or time them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('what', choices=('write', 'time'),
                        help='write the files, or time those that are there')
    parser.add_argument('folder', type=Path, help='folder of the files')
    parser.add_argument('--only', nargs='+', choices=sorted(PAIRS), default=[],
                        help='write only these models')
    parser.add_argument('--rounds', type=int, default=9, help='rounds of measurement (default: 9)')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads(),
                        help='threads of each runtime (default: as torch decides)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='also write the results as JSON')
    args = parser.parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.what == 'write':
        write(args.folder, args.only)
        return
    facts = environment(torch.device('cpu'))
    print(f'{facts["device"]}, {args.threads} threads, load {facts["load"]}')
    results = time_all(args.folder, args.rounds, args.threads)
    if args.json:
        args.json.write_text(json.dumps(dict(environment=facts, threads=args.threads,
                                             results=results), indent=1))


if __name__ == '__main__':
    main()
