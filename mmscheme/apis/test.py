"""Test a checkpoint of any model."""
import os.path as osp
from copy import deepcopy
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from mmengine import Config, ConfigDict
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmscheme.analysis.report import write_report
from mmscheme.deploy.predictor import ExportedModel
from mmscheme.engine.hooks.mixing_weights_hook import describe_cca_weights, find_mixers
from mmscheme.engine.hooks.report_hook import ReportHook
from mmscheme.models.loading import dataset_meta
from mmscheme.utils.config_query import as_list, iter_datasets, scope_of, step_name
from mmscheme.utils.processes import leave_process_group

from .config import prepare_run

__all__ = ['Outcome', 'build_cca_runners', 'build_test_runner', 'compare_metrics', 'test']


def build_test_runner(cfg: Config, checkpoint: Optional[str], out: Optional[str] = None,
                      show_dir: Optional[str] = None, show: bool = False, wait_time: float = 2,
                      tta: bool = False, launcher: str = 'none', preflight: bool = True,
                      stock_runtime: bool = False, exported: Optional[str] = None,
                      runtime: str = 'onnxruntime') -> Runner:
    """Check a test and build its runner.

    Args:
        cfg: The config; changed in place.
        checkpoint: Path or URL; None for an exported file.
        out: Folder for the predicted masks of segmentation, or pickle file for the
            predictions of other tasks.
        show_dir: Folder for a picture of every image.
        show, wait_time: Show each picture in a window for ``wait_time`` seconds.
        tta: Test-time augmentation by the config's ``tta_pipeline`` and ``tta_model``.
        launcher: As in mmengine.
        preflight: Check data, model and checkpoint first; see
            :func:`mmscheme.checks.check_run`.
        stock_runtime: Keep the loops, hooks and data sets of the config; see
            :func:`mmscheme.apis.config.prepare_run`.
        exported: File of ``tools/deploy/export.py`` to test in the place of a checkpoint.
        runtime: Of the file; see :func:`mmscheme.deploy.runtime.load_exported`.

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
    if runtime != 'onnxruntime' and not exported:
        raise ValueError(f'--runtime: expected --exported FILE with it, found {runtime} alone')
    model = _exported_model(cfg, exported, runtime, tta) if exported else None
    prepare_run(cfg, ('test', ), preflight, stock_runtime)
    cfg.model = model or cfg.model
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def _draw_pictures(cfg: Config, show_dir: Optional[str], show: bool, wait_time: float) -> None:
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if hook is None:
        raise ValueError('--show and --show-dir need default_hooks.visualization in the config')
    scope = scope_of(cfg)
    if scope == 'mmpretrain':
        hook.update(enable=show, show=show, wait_time=wait_time, interval=1)
        options = {k: v for k, v in hook.items() if k not in (
            'type', 'enable', 'interval', 'show', 'wait_time', 'out_dir')}
    else:
        hook.update(draw=show, show=show, wait_time=wait_time)
        options = dict(pred_score_thr=hook.get('score_thr', 0.3)) if scope == 'mmdet' else {}
    if show_dir:
        # The frameworks' own hooks write one picture for all images of a name.
        picture = 'SegPictureHook' if scope == 'mmseg' else 'PictureHook'
        _add_hook(cfg, type=f'mmscheme.{picture}', out_dir=show_dir, **options)


def _add_hook(cfg: Config, **hook: Any) -> None:
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), hook]


def _augment(cfg: Config) -> None:
    missing = [key for key in ('tta_pipeline', 'tta_model') if key not in cfg]
    if missing:
        raise ValueError(f'--tta needs {" and ".join(missing)} in the config')
    cfg.model = ConfigDict(**deepcopy(cfg.tta_model), module=cfg.model)
    for dataset in iter_datasets(cfg, ('test', )):
        dataset['pipeline'] = cfg.tta_pipeline


def _exported_model(cfg: Config, exported: str, runtime: str, tta: bool) -> ConfigDict:
    """Return what takes the place of a config's model to test an exported file.

    Raises:
        ValueError: It is of another task or other classes, or cannot do what is asked for.
    """
    if tta or cfg.launcher != 'none':
        raise ValueError('--exported: expected neither --tta nor several processes')
    meta = ExportedModel(exported, runtime).predictor.meta
    own = dict(scope=scope_of(cfg), classes=dataset_meta(cfg, {}).get('classes'))
    for key, value in own.items():
        value = list(value) if isinstance(value, tuple) else value
        if value and meta[key] and meta[key] != value:
            raise ValueError(f'{exported}: expected the {key} of the config, {value}, found '
                             f'{meta[key]}')
    return ConfigDict(type='mmscheme.ExportedModel', path=exported, runtime=runtime)


def _store_predictions(cfg: Config, out: str) -> None:
    evaluators: List[Dict[str, Any]] = as_list(cfg.test_evaluator)
    if scope_of(cfg) == 'mmseg':
        evaluators[0].update(output_dir=out, keep_results=True)
        _add_hook(cfg, type='mmscheme.MaskNamesHook')
        return
    if not out.endswith(('.pkl', '.pickle')):
        raise ValueError(f'--out: expected a file *.pkl, found {out}')
    dump = 'DumpDetResults' if scope_of(cfg) == 'mmdet' else 'DumpResults'
    cfg.test_evaluator = [*evaluators, dict(type=dump, out_file_path=out)]


def build_cca_runners(cfg: Config, checkpoint: str, **kwargs: Any) -> Tuple[Runner, Runner]:
    """Build the runners of two tests of one checkpoint, with CCA dropped and kept.

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
    quiet = {k: kwargs[k] for k in ('tta', 'launcher', 'stock_runtime') if k in kwargs}
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
    """Return a table of two tests' metrics and their differences."""
    names = [k for k, v in dropped.items() if isinstance(v, (int, float, np.number)) and k in kept]
    width = max([len(name) for name in names] + [6])
    lines = [f'{"metric":{width}}{"CCA dropped":>14}{"CCA kept":>14}{"difference":>14}']
    lines += [f'{name:{width}}{dropped[name]:>14.6g}{kept[name]:>14.6g}'
              f'{kept[name] - dropped[name]:>+14.6g}' for name in names]
    return '\n'.join(lines)


class Outcome(NamedTuple):
    """The outcome of a test.

    Attributes:
        metrics: Metrics by name.
        comparison: Table of the metrics with CCA dropped and kept, if both were tested.
        page: File of the report, if one was written.
    """
    metrics: Dict[str, Any]
    comparison: Optional[str] = None
    page: Optional[Path] = None


def test(cfg: Config, checkpoint: Optional[str], report: Optional[str] = None,
         keep_cca: bool = False, hooks: Sequence[Hook] = (), **options: Any) -> Outcome:
    """Test a checkpoint or an exported file.

    Args:
        cfg: The config; changed in place.
        checkpoint: Path or URL; None for an exported file.
        report: Folder for a page with metrics, pictures and costs; segmentation and detection.
        keep_cca: Test twice, with CCA dropped and kept.
        hooks: Further hooks for the runners.
        **options: See :func:`build_test_runner`.

    Returns:
        The metrics; comparison and page in the first process alone.

    Raises:
        FileNotFoundError, TypeError, ValueError: As in :func:`build_test_runner`; the model
            has no CCA to keep; an exported file has neither a report nor CCA.
    """
    if bool(checkpoint) == bool(options.get('exported')):
        raise ValueError('expected a checkpoint or --exported FILE')
    if not checkpoint and (report or keep_cca):
        raise ValueError('--exported: expected neither --report nor --keep-cca')
    tested = deepcopy(cfg)
    gathered = ReportHook(scope_of(cfg)) if report else None
    for evaluator in as_list(cfg.get('test_evaluator')) if report else ():
        if step_name(evaluator) == 'CocoMetric':
            evaluator.setdefault('classwise', True)
    runners = build_cca_runners(cfg, str(checkpoint), **options) if keep_cca else (
        build_test_runner(cfg, checkpoint, **options), )
    for runner in runners:
        for hook in hooks:
            runner.register_hook(hook)
    if gathered is not None:
        runners[0].register_hook(gathered)
    metrics, *others = [runner.test() for runner in runners]
    comparison = page = None
    if is_main_process():
        if report and gathered is not None:
            page = write_report(report, tested, str(checkpoint), gathered, runners[0].model,
                                others[0] if others else None)
        if others:
            comparison = (f'{compare_metrics(metrics, others[0])}\n'
                          f'{describe_cca_weights(find_mixers(runners[0].model))}')
    leave_process_group()
    return Outcome(metrics, comparison, page)
