"""Train the configs of a study with several seeds and keep the results."""
import argparse
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import torch
from mmengine import Config

from mmscheme.analysis.cca_plot import read_mixing_log
from mmscheme.analysis.complexity import count_config
from mmscheme.analysis.throughput import device_name
from mmscheme.apis.config import load_config
from mmscheme.apis.publish import publish
from mmscheme.apis.test import build_test_runner
from mmscheme.apis.train import build_train_runner
from mmscheme.utils.cli import Options
from mmscheme.utils.config_query import iter_datasets
from mmscheme.utils.find_checkpoint import find_checkpoint
from mmscheme.utils.quiet import quiet
from mmscheme.utils.user_errors import user_errors

_SETTINGS = ('seeds', 'after', 'part', 'tests', 'publish')
# What of a config decides over a result; logs and checkpoints do not.
_DECISIVE = ('model', 'train_dataloader', 'test_dataloader', 'test_evaluator', 'optim_wrapper',
             'param_scheduler', 'train_cfg', 'custom_hooks', 'load_from', 'study')
_CURVE_POINTS = 40
# In the work folder of a run: its config, and that training has ended.
_DIGEST, _TRAINED = 'config_digest', 'trained'
_ROOT = Path(__file__).resolve().parents[1]


class Run(NamedTuple):
    """One training of a study.

    Attributes:
        study: Folder of the study.
        cell: Name of its config, ``configs/<cell>.py``.
        seed: Random seed.
        after: Run whose checkpoint it starts from.
    """
    study: Path
    cell: str
    seed: int
    after: Optional[Tuple[Path, str]] = None

    @property
    def config(self) -> Path:
        """The config file."""
        return _config(self.study, self.cell)

    @property
    def name(self) -> str:
        """Name in messages."""
        return f'{self.study.name}/{self.cell} seed {self.seed}'


def _settings(cfg: Config) -> Dict[str, Any]:
    """Return the ``study`` of a config: tests, seeds and more, beyond training."""
    settings = dict(cfg.get('study') or {})
    unknown = sorted(set(settings) - set(_SETTINGS))
    if unknown:
        raise ValueError(f'{cfg.filename}: study has no {unknown}, expected some of '
                         f'{list(_SETTINGS)}')
    if settings.get('part', 'model') not in ('model', 'backbone'):
        raise ValueError(f"{cfg.filename}: study.part: expected 'model' or 'backbone', found "
                         f'{settings["part"]!r}')
    return settings


def plan_runs(study: Union[str, Path], cells: Optional[Sequence[str]] = None,
              seeds: Optional[Sequence[int]] = None) -> List[Run]:
    """Plan the runs of a study: first all configs with the first seed, then with the next.

    Args:
        study: Folder with ``configs/*.py``. In a config ``study = dict(...)`` may have
            ``seeds``; ``tests``, options by the name of a test; and ``after``, a config
            (``<cell>``, or ``<study>/<cell>`` for one of another study beside it) from whose
            checkpoint of the same seed a run starts, as a whole or with ``part='backbone'``;
            ``publish=True`` writes its weights in half precision with hash and config.
        cells: Only these configs.
        seeds: These seeds instead of the configs' own.

    Returns:
        The runs, in an order in which they can be done.

    Raises:
        FileNotFoundError: There is no such study.
        ValueError: A config of that name is not there, or its ``study`` is wrong.
    """
    study = Path(study)
    found = sorted(p.stem for p in (study / 'configs').glob('*.py') if p.stem[0] != '_')
    if not found:
        raise FileNotFoundError(f'no configs of a study, configs/*.py, in {study}')
    for cell in cells or ():
        if cell not in found:
            raise ValueError(f'{study} has no config {cell!r}; it has {found}')
    runs = []
    for cell in cells or found:
        settings = _settings(load_config(_config(study, cell)))
        source, before = _source(study, cell, settings), [(study.resolve(), cell)]
        above = source
        while above:
            if (above[0].resolve(), above[1]) in before:
                raise ValueError(f'{study}, {cell}: study.after goes round in a circle')
            before.append((above[0].resolve(), above[1]))
            above = _source(*above, _settings(load_config(_config(*above))))
        runs += [(len(before), Run(study, cell, seed, source))
                 for seed in seeds or settings.get('seeds', (0, ))]
    return [run for _, run in sorted(runs, key=lambda r: (r[1].seed, r[0]))]


def _config(study: Path, cell: str) -> Path:
    return study / 'configs' / f'{cell}.py'


def _source(study: Path, cell: str, settings: Dict[str, Any]) -> Optional[Tuple[Path, str]]:
    """Return the config that a run of this one starts from."""
    after = settings.get('after')
    if not after:
        return None
    folder, _, name = after.rpartition('/')
    source = (study.parent / folder if folder else study, name)
    if not _config(*source).is_file():
        raise ValueError(f'{study}, {cell}: study.after: no config of that name: {after}')
    return source


def read_results(path: Union[str, Path]) -> List[Dict[str, Any]]:
    """Read the results of a sweep.

    Args:
        path: File with a JSON object a line.

    Returns:
        One dict a run; none where there is no file. A line that a kill has cut is left out.

    Raises:
        ValueError: A line is no result of a run.
    """
    path = Path(path)
    if not path.is_file():
        return []
    lines = path.read_text().split('\n')
    results = []
    for number, line in enumerate(lines, 1):
        try:
            result = json.loads(line or 'null')
        except ValueError:
            if number == len(lines):
                continue
            raise ValueError(f'{path}, line {number}: expected a JSON object') from None
        if result is not None:
            if not {'config', 'seed', 'metrics'} <= set(result):
                raise ValueError(f'{path}, line {number}: expected config, seed and metrics, '
                                 f'found {sorted(result)}')
            results.append(result)
    return results


def _append(path: Path, result: Dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'a+') as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        f.seek(0)
        text = f.read()
        last = text.rpartition('\n')[2]
        try:
            json.loads(last or 'null')
        except ValueError:  # a kill has cut it
            f.truncate(len(text[:-len(last)].encode()))
            last = ''
        f.write(('\n' if last else '') + json.dumps(result) + '\n')
        f.flush()
        os.fsync(f.fileno())


def _machine() -> str:
    devices = [torch.device('cpu'), *[torch.device('cuda')] * torch.cuda.is_available()]
    return ', '.join(map(device_name, devices))


def _commit() -> Optional[str]:
    """Return the commit of this code, with a + where it was changed since."""
    command = ['git', '-C', str(_ROOT), 'describe', '--always', '--dirty=+', '--exclude=*']
    try:
        return subprocess.run(command, capture_output=True, text=True,
                              check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait until this process is the only one in a work folder; a kill opens the lock."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / '.lock', 'w') as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def _load(run: Run, work_dir: Path, options: Optional[Dict[str, Any]] = None,
          data_root: Optional[str] = None) -> Config:
    return load_config(run.config, str(work_dir),
                       {**(options or {}), 'randomness': dict(seed=run.seed)}, data_root)


def _digest(run: Run, options: Optional[Dict[str, Any]]) -> str:
    """Tell a run's config from others, wherever its data and files are."""
    cfg = _load(run._replace(seed=0), Path(), options)
    for dataset in iter_datasets(cfg):
        dataset.pop('data_root', None)
    content = {key: value for key, value in cfg.to_dict().items() if key in _DECISIVE}
    content['schedule'] = cfg.get('default_hooks', {}).get('mixing_schedule')
    for key in ('seeds', 'publish'):
        content.get('study', {}).pop(key, None)
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()
                          ).hexdigest()[:12]


def execute(run: Run, folder: Union[str, Path], options: Optional[Dict[str, Any]] = None,
            data_root: Optional[str] = None) -> Dict[str, Any]:
    """Train and test one run; one that was killed goes on from its last checkpoint.

    Args:
        run: Which.
        folder: Where the work folders of all runs are, ``<study>/<cell>/seed_<seed>``.
        options: Values by dotted key for its config.
        data_root: Root of its data.

    Returns:
        ``config``, ``seed``, ``digest`` of the config, ``machine``, ``torch``, ``threads``,
        ``started`` (UTC), ``seconds`` of training in this process, ``resumed`` (whether others
        came before), ``params`` and ``macs`` of inference, ``metrics`` by test, and
        ``curve``: ``1 - alpha`` by block at up to 40 iterations, None without CCA.

    Raises:
        FileNotFoundError, TypeError, ValueError: As in training; the run that it starts
            from is not done; the work folder is of another config.
    """
    work_dir = _work_dir(Path(folder), run.study, run.cell, run.seed)
    digest, mark = _digest(run, options), work_dir / _DIGEST
    if mark.is_file() and mark.read_text() != digest:
        raise ValueError(f'{work_dir} has a run of another config or other options: remove it, or '
                         'choose another --work-dir')
    work_dir.mkdir(parents=True, exist_ok=True)
    mark.write_text(digest)
    cfg = _load(run, work_dir, options, data_root)
    settings = _settings(cfg)
    cost = count_config(_load(run, work_dir, options)).parts['total']
    pretrained = None
    if run.after:
        source = _work_dir(Path(folder), *run.after, run.seed)
        if not (source / _TRAINED).exists():
            raise FileNotFoundError(f'no trained model in {source}: that run comes first')
        if settings.get('part') == 'backbone':
            pretrained = find_checkpoint(source)
        else:
            cfg.load_from = find_checkpoint(source)
    resume = 'auto' if (work_dir / 'last_checkpoint').exists() else None
    started = time.time()
    build_train_runner(cfg, resume, pretrained=pretrained).train()
    seconds = time.time() - started
    (work_dir / _TRAINED).touch()
    metrics = {}
    for name, changes in (settings.get('tests') or {'test': {}}).items():
        # The data have been looked at before training.
        runner = build_test_runner(
            _load(run, work_dir / 'tests' / name, {**(options or {}), **changes}, data_root),
            _checkpoint(work_dir), preflight=False)
        metrics[name] = {k: float(v) for k, v in runner.test().items()}
    return dict(config=run.cell, seed=run.seed, digest=digest, machine=_machine(),
                torch=torch.__version__, threads=torch.get_num_threads(),
                started=time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(started)),
                seconds=round(seconds, 1), resumed=resume is not None, params=cost.params,
                macs=cost.macs, metrics=metrics, curve=_curve(work_dir))


def _work_dir(folder: Path, study: Path, cell: str, seed: int) -> Path:
    return folder / study.resolve().name / cell / f'seed_{seed}'


def _checkpoint(work_dir: Path) -> str:
    checkpoint = find_checkpoint(work_dir)
    if checkpoint is None:
        raise FileNotFoundError(f'no checkpoint in {work_dir}')
    return checkpoint


def _curve(work_dir: Path) -> Optional[Dict[str, Any]]:
    try:
        log = read_mixing_log(work_dir)
    except (FileNotFoundError, ValueError):  # no CCA, or no log of it
        return None
    chosen = sorted({round(i * (len(log.steps) - 1) / (_CURVE_POINTS - 1))
                     for i in range(_CURVE_POINTS)})
    return dict(iterations=[log.steps[i] for i in chosen],
                weights={name: [round(values[i], 5) for i in chosen]
                         for name, values in log.weights.items()})


def _publish(run: Run, work_dir: Path, options: Optional[Dict[str, Any]]) -> None:
    cfg = _load(run, Path('work_dirs'), options)
    if _settings(cfg).get('publish'):
        name = f'{run.study.resolve().name}_{run.cell}_seed{run.seed}.pth'
        published = publish(_checkpoint(work_dir), work_dir / name, half=True, cfg=cfg)
        print(f'written: {published}')


def _find(results: Path, run: Run) -> Optional[Dict[str, Any]]:
    return next((r for r in read_results(results)
                 if (r['config'], r['seed']) == (run.cell, run.seed)), None)


def _work(run: Run, folder: Path, results: Path, threads: int, commit: Optional[str],
          options: Optional[Dict[str, Any]], data_root: Optional[str]) -> None:
    """Do one run in a process of its own, because frameworks keep state while one lives."""
    torch.set_num_threads(threads)
    work_dir = _work_dir(folder, run.study, run.cell, run.seed)
    # Where another sweep is at this run, this one waits for its result.
    with _locked(work_dir):
        if _find(results, run):
            return
        with open(work_dir / 'output.log', 'a') as f, redirect_stdout(f), redirect_stderr(f):
            with user_errors(debug=True):
                _append(results, dict(execute(run, folder, options, data_root), commit=commit))
                _publish(run, work_dir, options)


def run_sweep(runs: Sequence[Run], results: Union[str, Path], folder: Union[str, Path],
              jobs: int = 1, threads: Optional[int] = None,
              options: Optional[Dict[str, Any]] = None, data_root: Optional[str] = None) -> int:
    """Do the runs that have no result yet, several at a time.

    A sweep that was killed is started again: runs with a result are left out, those that
    were at work go on from their last checkpoints.

    Args:
        runs: Of :func:`plan_runs`.
        results: File to which each result is added, a line of JSON: that of
            :func:`execute`, and the ``commit`` of this code.
        folder: Where logs and checkpoints go.
        jobs: Runs at a time.
        threads: CPU threads of each; by default the cores divided by ``jobs``.
        options, data_root: See :func:`execute`.

    Returns:
        How many runs failed or could not start because one before them failed; the others were
        done all the same.

    Raises:
        ValueError: There is a result of another config under a run's name.
    """
    results, folder = Path(results), Path(folder)
    digests = {run.cell: _digest(run, options) for run in runs}
    done = {(r['config'], r['seed']): r.get('digest') for r in read_results(results)}
    for run in runs:
        if done.get((run.cell, run.seed), digests[run.cell]) != digests[run.cell]:
            raise ValueError(f'{results} has a result of {run.name} with another config or other '
                             'options: take it out, or choose another --results')
    waiting = [run for run in runs if (run.cell, run.seed) not in done]
    print(f'{len(runs)} runs, {len(runs) - len(waiting)} of them in {results}', flush=True)
    threads = threads or max(1, len(os.sched_getaffinity(0)) // jobs)
    total, finished, start, commit = len(waiting), 0, time.time(), _commit()
    failed: List[Tuple[Path, str, int]] = []
    # Forked, so that the frameworks are imported once.
    context = get_context('fork')
    active: Dict[BaseProcess, Tuple[Run, float, int]] = {}
    while waiting or active:
        busy = [_key(run) for run in [*waiting, *(run for run, _, _ in active.values())]]
        for run in [run for run in waiting if _source_key(run) not in busy]:
            if _source_key(run) in failed:
                waiting.remove(run)
                failed.append(_key(run))
                finished += 1
                print(f'[{finished}/{total}] {run.name}: not started, what it starts from failed',
                      flush=True)
            elif len(active) < jobs:
                waiting.remove(run)
                process = context.Process(target=_work, args=(
                    run, folder, results, threads, commit, options, data_root))
                active[process] = (run, time.time(), _size(_log(run, folder)))
                process.start()
        connection.wait([p.sentinel for p in active], timeout=None if active else 0)
        for ended in [p for p in active if p.exitcode is not None]:
            run, began, before = active.pop(ended)
            finished += 1
            left = (time.time() - start) / finished * (total - finished)
            print(f'[{finished}/{total}] {run.name}: {_outcome(run, results, ended)}, '
                  f'{time.time() - began:.0f} s; about {left / 60:.0f} min left', flush=True)
            if ended.exitcode:
                failed.append(_key(run))
                print(f'  {_reason(_log(run, folder), before)} (log: {_log(run, folder)})',
                      flush=True)
    return len(failed)


def _key(run: Run) -> Tuple[Path, str, int]:
    return run.study.resolve(), run.cell, run.seed


def _source_key(run: Run) -> Optional[Tuple[Path, str, int]]:
    return (run.after[0].resolve(), run.after[1], run.seed) if run.after else None


def _log(run: Run, folder: Path) -> Path:
    return _work_dir(folder, run.study, run.cell, run.seed) / 'output.log'


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _reason(log: Path, before: int) -> str:
    """Return the error in the lines that a process has added to its log."""
    if not log.is_file():
        return 'no log'
    lines = log.read_bytes()[before:].decode(errors='replace').splitlines()
    return ([line for line in lines if line.startswith('error: ')] or lines or ['killed'])[-1]


def _outcome(run: Run, results: Path, process: BaseProcess) -> str:
    result = _find(results, run)
    if process.exitcode or result is None:
        return f'failed with status {process.exitcode}'
    return '; '.join(' '.join([test, *(f'{name} {value:.2f}' for name, value in values.items())])
                     for test, values in result['metrics'].items())


def main(argv: Optional[List[str]] = None) -> None:
    """Run the sweeps of the command line."""
    parser = argparse.ArgumentParser(
        description='Train the configs of a study with several seeds, test them and keep the '
        'results. An interrupted study continues where it stopped.')
    parser.add_argument('studies', nargs='+', metavar='STUDY', help='folder with configs/*.py')
    parser.add_argument('--cells', nargs='+', metavar='NAME', help='run only these configs')
    parser.add_argument('--seeds', nargs='+', type=int, metavar='N',
                        help='use these seeds instead of those in the configs')
    parser.add_argument('--results', metavar='FILE', help='file for the results (default: '
                        'STUDY/results.jsonl); a new file repeats all runs')
    parser.add_argument('--work-dir', metavar='DIR', help='folder for logs and checkpoints '
                        '(default: work_dirs/studies, or work_dirs/<name of the results file>)')
    parser.add_argument('--data-root', metavar='DIR',
                        help='root folder of all data sets, instead of those in the configs')
    parser.add_argument('--jobs', type=int, default=1, help='runs at a time (default: 1)')
    parser.add_argument('--threads', type=int, help='CPU threads per run (default: cores / jobs)')
    parser.add_argument('--cfg-options', nargs='+', action=Options, metavar='KEY=VALUE',
                        help='change values of all configs, for a trial with --results')
    parser.add_argument('--debug', action='store_true', help='print the traceback of an error')
    args = parser.parse_args(argv)
    failed = 0
    with user_errors(args.debug):
        for name, value in (('--jobs', args.jobs), ('--threads', args.threads)):
            if value is not None and value < 1:
                raise ValueError(f'{name}: expected at least 1, found {value}')
        if (args.results or args.cells) and len(args.studies) > 1:
            raise ValueError('--results and --cells are for one study')
        if args.cfg_options and not args.results:
            raise ValueError('--cfg-options changes what the results are of: it needs --results')
        with quiet():
            plans = [plan_runs(study, args.cells, args.seeds) for study in args.studies]
        folder = args.work_dir or Path(
            'work_dirs', Path(args.results).stem if args.results else 'studies')
        for study, runs in zip(args.studies, plans):
            failed += run_sweep(runs, args.results or Path(study, 'results.jsonl'), folder,
                                args.jobs, args.threads, args.cfg_options, args.data_root)
    if failed:
        print(f'error: {failed} runs failed', file=sys.stderr)
        sys.exit(1)


if __name__ == '__main__':
    main()
