"""Train any model from its config."""
import logging
import time
from typing import Any, Optional, Sequence

import torch
from mmengine import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmscheme.datasets.guarded import describe_bad_data
from mmscheme.utils.find_checkpoint import find_checkpoint
from mmscheme.utils.processes import leave_process_group, lost_process

from .config import bad_data_log, prepare_run

__all__ = ['build_train_runner', 'train']


def build_train_runner(cfg: Config, resume: Optional[str] = None, amp: bool = False,
                       auto_scale_lr: bool = False, launcher: str = 'none',
                       pretrained: Optional[str] = None, preflight: bool = True,
                       stock_runtime: bool = False) -> Runner:
    """Check a training run and build its runner.

    Args:
        cfg: The config; changed in place.
        resume: ``'auto'`` to continue from the last checkpoint in the work folder, or the
            path of one.
        amp: Train in mixed precision.
        auto_scale_lr: Scale the learning rate with the batch size.
        launcher: As in mmengine.
        pretrained: Path or URL of a checkpoint for the backbone; see
            :class:`mmscheme.engine.hooks.PretrainedBackboneHook`.
        preflight: Check data, model, checkpoints and disk first; see
            :func:`mmscheme.checks.check_run`.
        stock_runtime: Keep the loops, hooks and data sets of the config; see
            :func:`mmscheme.apis.config.prepare_run`.

    Returns:
        The runner, nothing trained yet.

    Raises:
        FileNotFoundError, TypeError, ValueError: The config, the data or the machine
            does not allow the run.
    """
    cfg.launcher = launcher
    if amp:
        if not torch.cuda.is_available():
            raise ValueError('--amp needs a GPU, found none')
        cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
    if auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise ValueError('--auto-scale-lr needs auto_scale_lr.base_batch_size in the config')
        cfg.auto_scale_lr.enable = True
    if pretrained:
        hook = (cfg.get('default_hooks') or {}).get('pretrained_backbone')
        hook = dict(hook or dict(type='mmscheme.PretrainedBackboneHook'), checkpoint=pretrained)
        cfg.merge_from_dict({'default_hooks.pretrained_backbone': hook})
    if resume:
        found = find_checkpoint(cfg.work_dir) if resume == 'auto' else resume
        cfg.resume = found is not None
        cfg.load_from = found or cfg.get('load_from')
    prepare_run(cfg, ('train', 'val'), preflight, stock_runtime)
    counts = cfg.optim_wrapper.get('accumulative_counts') or 1
    if (cfg.get('auto_scale_lr') or {}).get('enable') and counts > 1:
        # mmengine does not count the images of the batches that are accumulated.
        cfg.auto_scale_lr.base_batch_size = cfg.auto_scale_lr.base_batch_size / counts
    # A config may name a runner of its own, as in OpenMMLab's tools.
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    # mmengine's lines for each parameter, which are most of what a short run logs.
    runner.logger.addFilter(lambda record: not str(record.msg).startswith('paramwise_options'))
    return runner


def train(cfg: Config, hooks: Sequence[Hook] = (), **options: Any) -> Runner:
    """Train a model; checkpoints and logs are in the work folder of the config.

    Args:
        cfg: The config; changed in place.
        hooks: Further hooks for the runner.
        **options: See :func:`build_train_runner`.

    Returns:
        The runner, at the end of training.

    Raises:
        FileNotFoundError, TypeError, ValueError: As in :func:`build_train_runner`.
        RunError: The run was stopped by data that cannot be read or by losses that are not
            finite.
    """
    runner = build_train_runner(cfg, **options)
    for hook in hooks:
        runner.register_hook(hook)
    start = time.time()
    try:
        with lost_process():
            runner.train()
    finally:
        for line in describe_bad_data(bad_data_log(cfg), start) if is_main_process() else ():
            print_log(line, logger='current', level=logging.WARNING)
    leave_process_group()
    return runner
