"""Testing a checkpoint of any model."""
import argparse
import os.path as osp
import warnings
from copy import deepcopy
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
from mmengine import Config, ConfigDict
from mmengine.dist import is_main_process
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmscheme.analysis.report import write_report
from mmscheme.engine.hooks.mixing_weights_hook import describe_cca_weights, find_mixers
from mmscheme.engine.hooks.report_hook import ReportHook
from mmscheme.utils.cli import add_common_arguments, add_config_arguments
from mmscheme.utils.config_query import scope_of, step_name
from mmscheme.utils.processes import leave_process_group, set_local_rank
from mmscheme.utils.user_errors import user_errors

from .config import load_config, prepare_run

__all__ = ['build_cca_runners', 'build_test_runner', 'compare_metrics', 'main']


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Reads the command line of ``tools/test.py``."""
    parser = argparse.ArgumentParser(description='Test a checkpoint.')
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='path or URL of the checkpoint')
    parser.add_argument('--out', help='segmentation: folder for the predicted masks; detection '
                        'and classification: pickle file for the predictions')
    parser.add_argument('--show-dir', metavar='DIR',
                        help='folder for pictures: ground truth beside prediction')
    parser.add_argument('--show', action='store_true', help='show the pictures in a window')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds a window stays')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    parser.add_argument('--report', metavar='DIR',
                        help='folder for a page with all of it, report.html; segmentation and '
                        'detection')
    parser.add_argument('--keep-cca', action='store_true',
                        help='test twice, with CCA dropped and kept, and print both metrics')
    add_common_arguments(parser)
    return parser.parse_args(argv)


def build_test_runner(cfg: Config, checkpoint: str, out: Optional[str] = None,
                      show_dir: Optional[str] = None, show: bool = False, wait_time: float = 2,
                      tta: bool = False, launcher: str = 'none', preflight: bool = True
                      ) -> Runner:
    """Checks a test and builds its runner.

    Args:
        cfg: The config; changed in place.
        checkpoint: Path or URL.
        out: Where predictions are stored: a folder of masks for segmentation, a
            pickle file for other tasks.
        show_dir: Folder for a picture of every image.
        show, wait_time: Shows each picture in a window for so many seconds.
        tta: Test-time augmentation by the config's ``tta_pipeline`` and ``tta_model``.
        launcher: As in mmengine.
        preflight: Checks data, model and checkpoint first; see
            :func:`mmscheme.checks.check_run`.

    Returns:
        The runner, nothing tested yet.

    Raises:
        FileNotFoundError, TypeError, ValueError: The config, the checkpoint or the
            data does not allow the test.
    """
    cfg.launcher = launcher
    cfg.load_from = checkpoint
    cfg.resume = False
    if show or show_dir:
        _draw_pictures(cfg, show_dir, show, wait_time)
    if tta:
        _augment(cfg)
    if out:
        _store_predictions(cfg, out)
    prepare_run(cfg, ('test', ), preflight)
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def _by_class(cfg: Config) -> None:
    """Asks COCO's metric for the AP of each class."""
    evaluators = cfg.get('test_evaluator') or []
    for evaluator in evaluators if isinstance(evaluators, list) else [evaluators]:
        if step_name(evaluator) == 'CocoMetric':
            evaluator.setdefault('classwise', True)


def _draw_pictures(cfg: Config, show_dir: Optional[str], show: bool, wait_time: float) -> None:
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if hook is None:
        raise ValueError('--show and --show-dir need default_hooks.visualization in the config')
    if scope_of(cfg) == 'mmpretrain':
        hook.update(enable=True, show=show, wait_time=wait_time, out_dir=show_dir, interval=1)
    elif scope_of(cfg) == 'mmseg':
        hook.update(draw=show, show=show, wait_time=wait_time)
        if show_dir:
            # mmseg's own pictures have no file name to choose, and no legend.
            cfg.custom_hooks = [*(cfg.get('custom_hooks') or []),
                                dict(type='mmscheme.SegPictureHook', out_dir=show_dir)]
    else:
        hook.update(draw=True, show=show, wait_time=wait_time)
        if show_dir:
            # mmdet joins it to the work folder, which an absolute path survives.
            hook.update(test_out_dir=osp.abspath(show_dir))


def _augment(cfg: Config) -> None:
    missing = [key for key in ('tta_pipeline', 'tta_model') if key not in cfg]
    if missing:
        raise ValueError(f'--tta needs {" and ".join(missing)} in the config')
    cfg.model = ConfigDict(**deepcopy(cfg.tta_model), module=cfg.model)
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    dataset.pipeline = cfg.tta_pipeline


def _store_predictions(cfg: Config, out: str) -> None:
    evaluators: List[Dict[str, Any]] = cfg.test_evaluator if isinstance(
        cfg.test_evaluator, list) else [cfg.test_evaluator]
    if scope_of(cfg) == 'mmseg':
        evaluators[0].update(output_dir=out, keep_results=True)
        return
    if not out.endswith(('.pkl', '.pickle')):
        raise ValueError(f'--out: expected a file *.pkl, found {out}')
    dump = 'DumpDetResults' if scope_of(cfg) == 'mmdet' else 'DumpResults'
    cfg.test_evaluator = [*evaluators, dict(type=dump, out_file_path=out)]


def build_cca_runners(cfg: Config, checkpoint: str, **kwargs: Any) -> Tuple[Runner, Runner]:
    """Builds the runners of two tests of one checkpoint, with CCA dropped and kept.

    Args:
        cfg: The config; its own ``keep_cca`` does not count.
        checkpoint, kwargs: See :func:`build_test_runner`. Pictures and predictions are
            those of the first test.

    Returns:
        The runner without CCA, and the one with it, whose logs go to ``keep_cca`` in the
        work folder.

    Raises:
        FileNotFoundError, TypeError, ValueError: As in :func:`build_test_runner`; the model
            has no CCA to keep.
    """
    other = deepcopy(cfg)
    other.work_dir = osp.join(cfg.work_dir, 'keep_cca')
    quiet = {k: kwargs[k] for k in ('tta', 'launcher') if k in kwargs}
    runners = (build_test_runner(cfg, checkpoint, **kwargs),
               build_test_runner(other, checkpoint, **quiet, preflight=False))
    for runner, keep in zip(runners, (False, True)):
        mixers = find_mixers(runner.model)
        if not mixers:
            raise ValueError('--keep-cca: the model has no SCHEME mixer with CCA '
                             f'({type(runner.model).__name__} of {cfg.filename})')
        for mixer in mixers.values():
            mixer.keep_cca = keep
    return runners


def compare_metrics(dropped: Dict[str, Any], kept: Dict[str, Any]) -> str:
    """A table of two tests' metrics and their differences."""
    names = [k for k, v in dropped.items() if isinstance(v, (int, float, np.number)) and k in kept]
    width = max([len(name) for name in names] + [6])
    lines = [f'{"metric":{width}}{"CCA dropped":>14}{"CCA kept":>14}{"difference":>14}']
    lines += [f'{name:{width}}{dropped[name]:>14.6g}{kept[name]:>14.6g}'
              f'{kept[name] - dropped[name]:>+14.6g}' for name in names]
    return '\n'.join(lines)


def main(argv: Optional[List[str]] = None) -> None:
    """The command line: prints the metrics."""
    args = parse_args(argv)
    set_local_rank(args)
    warnings.filterwarnings('ignore', category=UserWarning, module='mm(engine|cv|seg|det)')
    with user_errors(args.debug) as started:
        cfg = load_config(args.config, args.work_dir, args.cfg_options, args.data_root)
        options = dict(out=args.out, show_dir=args.show_dir, show=args.show,
                       wait_time=args.wait_time, tta=args.tta, launcher=args.launcher,
                       preflight=args.preflight)
        kept: Optional[Runner] = None
        report: Optional[ReportHook] = None
        tested = deepcopy(cfg)
        if args.report:
            report = ReportHook(scope_of(cfg))
            _by_class(cfg)
        if args.keep_cca:
            runner, kept = build_cca_runners(cfg, args.checkpoint, **options)
            kept.register_hook(started)
        else:
            runner = build_test_runner(cfg, args.checkpoint, **options)
        runner.register_hook(started)
        if report is not None:
            runner.register_hook(report)
        metrics = runner.test()
        metrics_kept = None if kept is None else kept.test()
        if report is not None and is_main_process():
            page = write_report(args.report, tested, args.checkpoint, report, runner.model,
                                metrics_kept)
            print(f'\nreport: {page.resolve()}')
        if metrics_kept is not None and is_main_process():
            print(f'\n{compare_metrics(metrics, metrics_kept)}\n'
                  f'{describe_cca_weights(find_mixers(runner.model))}')
        leave_process_group()
