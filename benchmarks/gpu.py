"""Check and measure all that is of ours on a GPU, in minutes: python tools/dev.py gpu --out DIR.

Needs torch and Triton; what needs OpenMMLab besides is left out, and said, where that is missing.
The parts come in the order of their worth and each has a time limit, so that a run which is cut
off has told most. ``--dry-run`` walks through all of them on the CPU with tiny sizes.
"""
import argparse
import json
import multiprocessing
import os
import sys
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmscheme.analysis.throughput import (
    OURS,
    Contest,
    ceilings,
    environment,
    peak_memory,
    take_turns,
)
from mmscheme.layers import BlockDiagonalMLP, SCHEMEMixer
from mmscheme.ops import block_diagonal_mlp, measured

ROOT = Path(__file__).resolve().parents[1]
MISSING: Optional[str] = None
NO_CLASSIFIER: Optional[str] = None
# The processes that compile need none of this, and would wait for it.
if multiprocessing.parent_process() is None:
    try:
        from mmscheme import mmcv_ext
        mmcv_ext.activate()
        import mmdet  # noqa: F401
        import mmseg  # noqa: F401
    except (ImportError, FileNotFoundError) as e:
        MISSING = str(e)
    try:
        import mmpretrain.models  # noqa: F401
    except (ImportError, FileNotFoundError, TypeError) as e:
        # A TypeError beside a transformers that is too new for it.
        NO_CLASSIFIER = f'{type(e).__name__}: {e}'
    import contenders

WIDTHS = (16, 24, 64, 80, 96, 128, 192)
S12 = (64, 128, 320, 512)
DTYPES = dict(float32=torch.float32, float16=torch.float16, bfloat16=torch.bfloat16)
# Relative to the largest value, against float64.
BOUNDS = dict(float32=1e-5, float16=4e-3, bfloat16=2e-2)
# Seconds that compiling all kernels may take.
_COMPILING = 120
CONFIGS = dict(classifier='cls_scheme_s_in1k.py', segmenter='upernet_scheme_s_ade20k.py',
               detector='mask_rcnn_scheme_s_coco.py')


class Plan(NamedTuple):
    """What a run does.

    Attributes:
        device: Where it runs.
        fused: The implementation that is checked.
        dry: True for tiny sizes.
    """
    device: torch.device
    fused: str
    dry: bool

    def pick(self, real: Any, tiny: Any) -> Any:
        """Return a size for this run."""
        return tiny if self.dry else real


class Verdict(NamedTuple):
    """One check: its name, True if it holds (None: left out), and what was found."""
    check: str
    held: Optional[bool]
    found: str


class Times(NamedTuple):
    """Times of one contest in milliseconds, by how they were taken and alternative."""
    what: str
    name: str
    floor: Optional[float]
    milliseconds: Dict[str, Dict[str, float]]


# ---- parity ------------------------------------------------------------------------------------


def reference(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, groups: int) -> Tensor:
    """Compute the FFN of tokens with dense matrices that are zero off the blocks."""
    full1, full2 = (torch.block_diag(*w.chunk(groups)) for w in (w1, w2))
    return F.gelu(x @ full1.T + b1) @ full2.T + b2


def parity(job: Tuple[int, str, str, str, str]) -> Tuple[Any, float, str]:
    """Return the largest error of output and gradients for a width, dtype and layout."""
    width, dtype, layout, device, fused = job
    try:
        groups, batch, positions = 2, 3, 77
        generator = torch.Generator().manual_seed(width)

        def draw(*shape: int, scale: float = 1.) -> Tensor:
            values = torch.randn(*shape, generator=generator) * scale
            return values.to(device, DTYPES[dtype])
        channels, hidden = groups * width, groups * 3 * width
        x = draw(batch, positions, channels)
        if layout == 'channels first':
            x = x.transpose(1, 2).contiguous().transpose(1, 2)
        inputs = [x, draw(hidden, width, scale=width**-.5), draw(hidden),
                  draw(channels, hidden // groups, scale=hidden**-.5), draw(channels)]
        inputs = [t.requires_grad_() for t in inputs]
        y = block_diagonal_mlp(*inputs, groups, 'gelu', implementation=fused)
        grad = torch.randn(y.shape, generator=generator).to(y)
        found = [y, *torch.autograd.grad(y, inputs, grad)]
        doubles = [t.detach().double().requires_grad_() for t in inputs]
        z = reference(*doubles, groups)
        wanted = [z, *torch.autograd.grad(z, doubles, grad.double())]
        error = float(torch.stack([(a.double() - b).abs().max() / b.abs().max()
                                   for a, b in zip(found, wanted)]).max())
        return job, error, ''
    except Exception as e:  # one width must not end the others
        return job, float('nan'), f'{type(e).__name__}: {e}'[:300]


def compile_stage(job: Tuple[int, int, str, str]) -> None:
    """Compile the kernels of a stage into Triton's cache on the disk."""
    dims, tokens, dtype, device = job
    mixer = BlockDiagonalMLP(dims, implementation='triton').to(device, DTYPES[dtype])
    x = torch.randn(1, tokens, dims, device=device, dtype=DTYPES[dtype], requires_grad=True)
    mixer(x).sum().backward()


def check_parity(plan: Plan) -> Iterator[Any]:
    """Compare the kernels with float64 in all dtypes, layouts and widths, odd token counts."""
    jobs = [(width, dtype, layout, str(plan.device), plan.fused)
            for dtype in plan.pick(('bfloat16', 'float16', 'float32'), ('float32', ))
            for width in plan.pick(WIDTHS, WIDTHS[:4])
            for layout in ('tokens', 'channels first')]
    if plan.dry:
        results = list(map(parity, jobs))
    else:  # compiling is what takes time, and each process compiles its own
        with multiprocessing.get_context('spawn').Pool(max(1, (os.cpu_count() or 2) - 2)) as pool:
            stages = [(dims, plan.pick(64, 1) * (56 >> i)**2, 'bfloat16', str(plan.device))
                      for i, dims in enumerate(S12)]
            compiled = pool.map_async(compile_stage, stages, 1)
            results = pool.map_async(parity, jobs, 1).get(_COMPILING)
            compiled.get(_COMPILING)
    for dtype in dict.fromkeys(job[1] for job in jobs):
        mine = [r for r in results if r[0][1] == dtype]
        worst = max(mine, key=lambda r: float('inf') if r[1] != r[1] else r[1])
        yield Verdict(f'parity with float64, {dtype}', all(r[1] < BOUNDS[dtype] for r in mine),
                      worst[2] or f'{worst[1]:.1e} at width {worst[0][0]}, {worst[0][2]} '
                                  f'(bound {BOUNDS[dtype]:.0e})')


def _mixer(plan: Plan, dims: int = 64) -> Tuple[SCHEMEMixer, Tensor]:
    torch.manual_seed(0)
    mixer = SCHEMEMixer(dims, implementation=plan.fused).to(plan.device).eval()
    return mixer, torch.randn(2, dims, 9, 13, device=plan.device)


def check_ways(plan: Plan) -> Iterator[Any]:
    """Compare the mixer under autocast, compile, CUDA graphs, streams and by measured choice."""
    mixer, x = _mixer(plan)
    with torch.no_grad():
        plain = SCHEMEMixer(64, implementation='plain').to(plan.device).eval()
        plain.load_state_dict(mixer.state_dict())
        expected = plain(x)

        def verdict(name: str, y: Tensor, bound: float) -> Verdict:
            error = float((y.float() - expected).abs().max() / expected.abs().max())
            return Verdict(name, error < bound, f'{error:.1e} (bound {bound:.0e})')
        for dtype in (torch.float16, torch.bfloat16):
            if plan.dry and dtype == torch.float16:
                continue
            with torch.autocast(plan.device.type, dtype):
                yield verdict(f'autocast, {str(dtype)[6:]}', mixer(x), 3e-2)
        if plan.device.type == 'cuda':
            graph, static = torch.cuda.CUDAGraph(), x.clone()
            mixer(static)
            with torch.cuda.graph(graph):
                y = mixer(static)
            y.zero_()
            graph.replay()
            yield verdict('CUDA graph', y, 1e-3)
            streams = [torch.cuda.Stream() for _ in range(2)]
            outs = []
            for stream in streams:
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):
                    outs.append(mixer(x))
            torch.cuda.synchronize()
            yield verdict('two streams', outs[1], 1e-3)
            if torch.cuda.device_count() > 1:
                other = torch.device('cuda', 1)
                yield verdict('another GPU than the current one',
                              mixer.to(other)(x.to(other)).to(plan.device), 1e-3)
                mixer.to(plan.device)
            else:
                yield Verdict('another GPU than the current one', None, 'there is one GPU')
    automatic, _ = _mixer(plan._replace(fused='auto'))
    automatic.load_state_dict(mixer.state_dict())
    with torch.no_grad():
        yield verdict('implementation="auto"', automatic(x), 1e-3)
    chosen = '; '.join(f'{measured.describe(k)}: {v}' for k, v in measured._chosen.items())
    yield Verdict('choice by measurement', None, chosen or 'not on this device')


def check_memory(plan: Plan) -> Iterator[Any]:
    """Compare the peak memory of forward and backward with what there has to be."""
    dims, tokens = plan.pick((64, 64 * 56 * 56), (16, 4096))
    dtype = plan.pick(torch.bfloat16, torch.float32)
    ffn = BlockDiagonalMLP(dims, implementation=plan.fused).to(plan.device, dtype)
    x = torch.randn(1, tokens, dims, device=plan.device, dtype=dtype, requires_grad=True)
    grad = torch.randn_like(x)
    hidden = 8 * x.numel() * x.element_size()
    ffn(x).backward(grad)

    def step() -> None:
        ffn(x).backward(grad)
    x.grad, peak = None, peak_memory(step, plan.device)
    # Output, its gradient's sum and the input's gradient; sums over parts of the tokens.
    most = 3 * x.numel() * x.element_size() + 40 * 2**20
    held = None if peak is None or plan.dry else peak < min(most, hidden)
    yield Verdict('no hidden map in memory', held,
                  f'peak {(peak or 0) / 2**20:.0f} MiB, bound {most / 2**20:.0f} MiB, the hidden '
                  f'map alone {hidden / 2**20:.0f} MiB')


# ---- training in 16 bits -----------------------------------------------------------------------


def _config(plan: Plan, name: str) -> Any:
    """Load a config, for a dry run with a small backbone and few regions."""
    from mmscheme.apis.config import load_config
    cfg = load_config(str(ROOT / 'configs' / CONFIGS[name]))
    if plan.dry:
        cfg.model.backbone.arch = dict(depths=(1, 1, 1, 1), embed_dims=S12)
        if name == 'segmenter':  # which pads to this in training
            cfg.model.data_preprocessor.size = (64, 64)
        if name == 'detector':
            few = dict(nms_pre=20, max_per_img=20)
            cfg.model.train_cfg.rpn_proposal.update(few)
            cfg.model.test_cfg.rpn.update(few)
            cfg.model.test_cfg.rcnn.max_per_img = 5
            cfg.model.train_cfg.rpn.sampler.num = cfg.model.train_cfg.rcnn.sampler.num = 8
    return cfg


def _task(plan: Plan, name: str) -> Tuple[Any, Callable[[], Tensor]]:
    """Build a config's model and a function that returns its loss on a batch of noise."""
    from mmscheme.analysis.random_batch import random_batch
    from mmscheme.models.loading import build_model
    cfg = _config(plan, name)
    torch.manual_seed(0)
    model = build_model(cfg).to(plan.device).train()
    size = plan.pick(dict(classifier=(224, 224)).get(name, (512, 512)), (64, 64))
    batch = random_batch(cfg, size, plan.pick(dict(classifier=32).get(name, 2), 2))

    def loss() -> Tensor:
        torch.manual_seed(1)
        data = model.data_preprocessor(batch, True)
        return model.parse_losses(model(data['inputs'], data['data_samples'], mode='loss'))[0]
    return model, loss


def check_amp(plan: Plan) -> Iterator[Any]:
    """Compare a training step in 16 bits with float32, then train until the loss has fallen."""
    for name in CONFIGS:
        if name == 'classifier' and NO_CLASSIFIER:
            yield Verdict(name, None, f'left out, {NO_CLASSIFIER}')
            continue
        model, loss = _task(plan, name)
        exact = float(loss())
        # Which proposals a detector samples hangs on the last digit of their scores.
        bound = 0.25 if name == 'detector' else 0.05
        # mmcv's NMS takes no bfloat16, and on a CPU no float16 either.
        dtypes = [torch.bfloat16, torch.float16] if not plan.dry else [torch.bfloat16]
        if name == 'detector':
            dtypes = dtypes[1:] or [torch.float32]
        for dtype in dtypes:
            scaler = torch.amp.GradScaler(plan.device.type, 128., enabled=dtype == torch.float16)
            model.zero_grad()
            with torch.autocast(plan.device.type, dtype, dtype != torch.float32):
                value = loss()
            scaler.scale(value).backward()
            infinite = [n for n, p in model.named_parameters()
                        if p.grad is not None and not bool(p.grad.isfinite().all())]
            error = abs(float(value) - exact) / abs(exact)
            yield Verdict(f'{name}: a step in {str(dtype)[6:]}', error < bound and not infinite,
                          f'loss {float(value):.4f} beside {exact:.4f} (bound {bound:.0%}), '
                          f'gradients that are not finite: {infinite[:2] or "none"}')
        steps = plan.pick(50, 2)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            with torch.autocast(plan.device.type, dtype, dtype != torch.float32):
                value = loss()
            scaler.scale(value).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 35)
            scaler.step(optimizer)
            scaler.update()
            losses.append(value.detach())
        first, last = (float(torch.stack(part).mean()) for part in (losses[:5], losses[-5:]))
        yield Verdict(f'{name}: {steps} steps in {str(dtype)[6:]}',
                      None if plan.dry else last < first,
                      f'loss {first:.4f} -> {last:.4f}')
        del model, loss, optimizer


def check_nccl(plan: Plan) -> Iterator[Any]:
    """Train a mixer in one process of DistributedDataParallel."""
    import torch.distributed as dist
    backend = 'nccl' if plan.device.type == 'cuda' else 'gloo'
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=os.environ.get('MASTER_PORT', '29511'))
    dist.init_process_group(backend, rank=0, world_size=1)
    try:
        mixer, x = _mixer(plan)
        model = torch.nn.parallel.DistributedDataParallel(mixer.train())
        model(x).square().mean().backward()
        finite = all(bool(p.grad.isfinite().all()) for p in mixer.parameters())
        yield Verdict(f'{backend}, one process', finite, 'every parameter has a finite gradient'
                      if finite else 'a gradient is not finite')
    finally:
        dist.destroy_process_group()


def check_compile(plan: Plan) -> Iterator[Any]:
    """Compare the mixer in training, compiled to one graph, with itself."""
    mixer, x = _mixer(plan)
    mixer.train()
    expected = mixer(x)
    y = torch.compile(mixer, fullgraph=True, backend=plan.pick('inductor', 'aot_eager'))(x)
    error = float((y - expected).detach().abs().max() / expected.detach().abs().max())
    yield Verdict('torch.compile, fullgraph', error < 1e-3, f'{error:.1e} (bound 1e-3)')


# ---- times -------------------------------------------------------------------------------------


def _in_graph(run: Callable[[], Any]) -> Callable[[], Any]:
    """Record several calls as one CUDA graph; replaying it costs the host nothing."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(_REPEATS):
            run()
    return graph.replay


_REPEATS = 4


def time_contest(plan: Plan, what: str, contest: Contest, limits: Any,
                 graphs: bool = True) -> Times:
    """Time the alternatives in turns, as they are and recorded as CUDA graphs."""
    rounds = plan.pick(9, 2)
    eager = take_turns(contest.runs, plan.device, rounds)
    times = dict(eager={n: t.seconds * 1e3 for n, t in eager.items()},
                 spread={n: t.spread for n, t in eager.items()})
    if plan.device.type == 'cuda' and graphs:
        recorded = {}
        for name, run in contest.runs.items():
            try:
                recorded[name] = _in_graph(run)
            except Exception as e:  # what waits for the host cannot be recorded
                torch.cuda.synchronize()
                print(f'    {name}: no CUDA graph ({type(e).__name__})', flush=True)
        found = take_turns(recorded, plan.device, rounds)
        times['graph'] = {n: t.seconds * 1e3 / _REPEATS for n, t in found.items()}
        times['graph spread'] = {n: t.spread for n, t in found.items()}
    floor = None
    if contest.macs is not None and contest.bytes_ is not None:
        floor = limits.floor(contest.macs, contest.bytes_) * 1e3
    return Times(what, contest.name, floor, times)


def _best_dense(times: Dict[str, float]) -> float:
    return min(t for name, t in times.items() if name.startswith('dense'))


def bench_mixers(plan: Plan, limits: Any, batch: int = 64, dtype: str = 'bfloat16',
                 training: bool = False, compiled: bool = False) -> Iterator[Any]:
    """Time the mixers of each stage; judge inference at the size that users train with."""
    widths, size = plan.pick((S12, 224), ((16, 32, 64, 64), 64))
    kind = DTYPES[plan.pick(dtype, 'float32')]
    what = (f'mixer, {"training step" if training else "inference"}, {dtype}, batch {batch}'
            f'{", compiled" * compiled}')
    for stage, contest in enumerate(contenders.mixers(
            widths, plan.pick(batch, 1), (size, size), plan.device, kind, training,
            compiled=plan.pick('inductor', 'aot_eager') if compiled else '')):
        times = time_contest(plan, what, contest, limits)
        yield times
        if batch > 1 and dtype == 'bfloat16' and not training:
            found = times.milliseconds.get('graph', times.milliseconds['eager'])
            ratio, least = _best_dense(found) / found[OURS], 2. if stage < 2 else 1.3
            yield Verdict(f'forward of stage {stage + 1}{", compiled" * compiled}',
                          None if plan.dry else ratio >= least,
                          f'{ratio:.2f} times the best dense form (bound {least})')


def bench_backbone(plan: Plan, limits: Any, training: bool = True, compiled: bool = False
                   ) -> Iterator[Any]:
    """Time the backbone S12."""
    batch, size = plan.pick((64, 224), (1, 64))
    arch = plan.pick('s12', dict(depths=(1, 1, 1, 1), embed_dims=S12))
    contest = contenders.backbones(arch, batch, (size, size), plan.device,
                                   plan.pick(torch.bfloat16, torch.float32), training,
                                   compiled=plan.pick('inductor', 'aot_eager') if compiled else '')
    if compiled:
        contest = contest._replace(runs={k: v for k, v in contest.runs.items()
                                         if k == OURS or 'compiled' in k})
    step = 'training step' if training else 'inference'
    times = time_contest(plan, f'backbone S12, {step}, bfloat16', contest, limits)
    yield times
    for way in ('eager', 'graph'):
        found = times.milliseconds.get(way)
        if training and found and not compiled:
            ratio = _best_dense(found) / found[OURS]
            yield Verdict(f'training step of S12, {way}', None if plan.dry else ratio >= 1.2,
                          f'{ratio:.2f} times the dense backbone (bound 1.2)')


def bench_models(plan: Plan, limits: Any) -> Iterator[Any]:
    """Time whole segmenters and detectors with ours and the dense backbone."""
    from mmscheme.analysis.random_batch import random_batch
    from mmscheme.models.loading import build_model
    for name in ('segmenter', 'detector'):
        for training in (True, False):
            runs = {}
            others = plan.pick([('dense PPAA', contenders.DENSE)], [])
            for label, change in ((OURS, {}), *others):
                cfg = _config(plan, name)
                cfg.model.backbone.update(change)
                model = build_model(cfg).to(plan.device).train(training)
                batch = random_batch(cfg, plan.pick((512, 512), (64, 64)), 2)
                runs[label] = partial(_whole, plan, model, batch, training)
            yield time_contest(plan, f'{name}, {"training step" if training else "inference"}, '
                               'float16 autocast, batch 2', Contest('512x512', runs), limits,
                               graphs=False)


def _whole(plan: Plan, model: Any, batch: Dict[str, Any], training: bool) -> None:
    data = model.data_preprocessor(dict(batch), training)
    with torch.set_grad_enabled(training), torch.autocast(plan.device.type, torch.float16,
                                                          enabled=not plan.dry):
        outs = model(data['inputs'], data['data_samples'], mode='loss' if training else 'predict')
    if training:
        model.parse_losses(outs)[0].backward()
        model.zero_grad()


# ---- the run -----------------------------------------------------------------------------------


class Part(NamedTuple):
    """A part of the run.

    Attributes:
        name: Its name.
        run: Yields verdicts and times.
        seconds: Its time limit, looked at between two results.
        mmlab: True if it needs OpenMMLab.
    """
    name: str
    run: Callable[[], Iterator[Any]]
    seconds: float
    mmlab: bool = False


def parts_of(plan: Plan, limits: Any) -> List[Part]:
    """Return the parts, the most valuable first."""
    mixers = partial(bench_mixers, plan, limits)
    return [
        Part('parity', partial(check_parity, plan), 90),
        Part('mixers, inference', mixers, 60),
        Part('ways to run', partial(check_ways, plan), 30),
        Part('backbone, training', partial(bench_backbone, plan, limits), 60, True),
        Part('mixers, training', partial(mixers, training=True), 40),
        Part('memory', partial(check_memory, plan), 10),
        Part('training in 16 bits', partial(check_amp, plan), 90, True),
        Part('backbone, inference', partial(bench_backbone, plan, limits, False), 30, True),
        Part('whole models', partial(bench_models, plan, limits), 60, True),
        Part('NCCL', partial(check_nccl, plan), 15),
        Part('mixers, batch 1', partial(mixers, batch=1), 30),
        Part('mixers, float16', partial(mixers, dtype='float16'), 40),
        Part('compile', partial(check_compile, plan), 60),
        Part('mixers, compiled', partial(mixers, compiled=True), 60),
        Part('backbone, compiled', partial(bench_backbone, plan, limits, compiled=True), 120, True),
    ]


def write_report(folder: Path, title: str, facts: Dict[str, Any], verdicts: List[Verdict],
                 times: List[Times]) -> None:
    """Write results.json, table.md and, where matplotlib is there, times.png."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'results.json').write_text(json.dumps(dict(
        title=title, environment=facts, verdicts=[v._asdict() for v in verdicts],
        times=[t._asdict() for t in times]), indent=1))
    lines = [f'{title}: {facts["device"]}, torch {facts["torch"]}.', '',
             'Times of the others over ours; "graph" is a CUDA graph, free of the host\'s time.']
    for what in dict.fromkeys(t.what for t in times):
        mine = [t for t in times if t.what == what]
        names = list(dict.fromkeys(n for t in mine for n in t.milliseconds['eager'] if n != OURS))
        lines += ['', f'**{what}**', '', '| | ours | at its floor | ' + ' | '.join(names) + ' |',
                  '| --- ' * (len(names) + 3) + '|']
        for t in mine:
            for way in ('graph', 'eager'):
                ms = t.milliseconds.get(way, {})
                if OURS in ms:
                    share = f'{t.floor / ms[OURS]:.0%}' if t.floor else ''
                    cells = [f'{ms[n] / ms[OURS]:.2f}' if n in ms else '' for n in names]
                    lines.append(f'| {t.name}, {way} | {ms[OURS]:.3f} ms | {share} | '
                                 + ' | '.join(cells) + ' |')
    lines += ['', '| check | | found |', '| --- | --- | --- |']
    marks = {True: 'holds', False: '**fails**', None: '-'}
    lines += [f'| {v.check} | {marks[v.held]} | {v.found} |' for v in verdicts]
    (folder / 'table.md').write_text('\n'.join(lines) + '\n')
    try:
        _draw(folder / 'times.png', title, times)
    except ImportError as e:
        print(f'no picture: {e}')


def _draw(path: Path, title: str, times: List[Times]) -> None:
    from mmscheme.visualization.figures import new_figure
    shown = [t for t in times if OURS in t.milliseconds['eager']]
    figure, axes = new_figure(1, max(1, len(shown)), (9, 2 * len(shown) + 1))
    figure.suptitle(title)
    for axis, t in zip((axis for row in axes for axis in row), shown):
        ms = t.milliseconds.get('graph') or t.milliseconds['eager']
        names = sorted((n for n in ms), key=lambda n: -ms[n])
        axis.barh(names, [ms[n] / ms[OURS] for n in names],
                  color=['#c0392b' if n == OURS else '#95a5a6' for n in names])
        axis.set_title(f'{t.what}, {t.name}: time over ours', fontsize=8)
        axis.tick_params(labelsize=7)
    figure.savefig(path, dpi=100)


def main(argv: Optional[List[str]] = None) -> int:
    """Run the parts and return 1 if a check does not hold."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', required=True, metavar='DIR', help='folder for the results')
    parser.add_argument('--dry-run', action='store_true', help='run at tiny sizes on the CPU')
    parser.add_argument('--minutes', type=float, default=8.,
                        help='limit for the whole run (default: 8)')
    parser.add_argument('--parts', nargs='+', metavar='NAME', help='run only these parts')
    args = parser.parse_args(argv)
    if not args.dry_run and not torch.cuda.is_available():
        parser.error('torch finds no GPU; --dry-run walks through all parts on the CPU')
    device = torch.device('cpu' if args.dry_run else 'cuda')
    plan = Plan(device, 'chunked' if args.dry_run else 'triton', args.dry_run)
    start, folder = time.monotonic(), Path(args.out)
    facts = environment(device)
    if device.type == 'cuda':
        facts.update(capability=torch.cuda.get_device_capability(), cuda=torch.version.cuda,
                     memory=torch.cuda.get_device_properties(device).total_memory,
                     clock_mhz=_clock())
    limits = ceilings(device, plan.pick(torch.bfloat16, torch.float32))
    facts.update(limits._asdict())
    title = 'Dry run on a CPU, no measurement' if args.dry_run else 'GPU'
    parts = parts_of(plan, limits)
    unknown = set(args.parts or ()) - {part.name for part in parts}
    if unknown:
        parser.error(f'--parts: expected some of {[p.name for p in parts]}, found {unknown}')
    verdicts: List[Verdict] = []
    times: List[Times] = []
    print(f'{title}: {facts}', flush=True)
    for number, part in enumerate(parts, 1):
        if args.parts and part.name not in args.parts:
            continue
        began = time.monotonic()
        left = float('inf') if args.dry_run else 60 * args.minutes - (began - start)
        print(f'[{number}/{len(parts)}] {part.name}, {began - start:.0f} s so far', flush=True)
        why = f'OpenMMLab is missing: {MISSING}' if part.mmlab and MISSING else \
            'no time left' if left < 5 else ''
        if why:
            verdicts.append(Verdict(part.name, None, f'left out, {why}'))
            continue
        try:
            for result in part.run():
                (verdicts if isinstance(result, Verdict) else times).append(result)
                print(f'    {result}', flush=True)
                write_report(folder, title, facts, verdicts, times)
                if not args.dry_run and time.monotonic() - began > min(part.seconds, left):
                    verdicts.append(Verdict(part.name, None, 'cut off by its time limit'))
                    break
        except Exception as e:  # the next part may tell more
            traceback.print_exc()
            verdicts.append(Verdict(part.name, False, f'{type(e).__name__}: {e}'[:300]))
        if device.type == 'cuda':
            torch.cuda.empty_cache()
    write_report(folder, title, facts, verdicts, times)
    failed = [v for v in verdicts if v.held is False]
    for verdict in verdicts:
        mark = {True: 'holds', False: 'FAILS', None: '-    '}[verdict.held]
        print(f'{mark} {verdict.check}: {verdict.found}')
    print(f'{len(failed)} of {len(verdicts)} checks failed; {folder.resolve()}, '
          f'{time.monotonic() - start:.0f} s')
    return 1 if failed else 0


def _clock() -> Optional[int]:
    try:
        return torch.cuda.clock_rate()
    except Exception:  # needs NVIDIA's management library
        return None


if __name__ == '__main__':
    sys.exit(main())
