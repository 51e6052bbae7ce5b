"""Training any model from its config."""
import argparse
import logging
import time
import warnings
from typing import List, Optional

import torch
from mmengine import Config
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmscheme.datasets.guarded import describe_bad_data
from mmscheme.utils.cli import add_common_arguments, add_config_arguments
from mmscheme.utils.find_checkpoint import find_checkpoint
from mmscheme.utils.processes import leave_process_group, lost_process, set_local_rank
from mmscheme.utils.user_errors import user_errors

from .config import bad_data_log, load_config, prepare_run

__all__ = ['build_train_runner', 'main']


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Reads the command line of ``tools/train.py``."""
    parser = argparse.ArgumentParser(description='Train a model.')
    add_config_arguments(parser)
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT',
                        help='go on from this checkpoint, or from the last in the work folder')
    parser.add_argument('--pretrained', metavar='CHECKPOINT',
                        help='load the backbone from this checkpoint, usually of a classifier')
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument('--auto-scale-lr', action='store_true',
                        help='scale the learning rate from the recipe\'s batch size to this run\'s')
    add_common_arguments(parser)
    return parser.parse_args(argv)


def build_train_runner(cfg: Config, resume: Optional[str] = None, amp: bool = False,
                       auto_scale_lr: bool = False, launcher: str = 'none',
                       pretrained: Optional[str] = None, preflight: bool = True) -> Runner:
    """Checks a run and builds its runner.

    Args:
        cfg: The config; changed in place.
        resume: ``'auto'`` to go on from the last checkpoint in the work folder, or
            the path of one.
        amp: Trains in mixed precision.
        auto_scale_lr: Scales the learning rate with the batch size.
        launcher: As in mmengine.
        pretrained: Path or URL of a checkpoint for the backbone; see
            :class:`mmscheme.engine.hooks.PretrainedBackboneHook`.
        preflight: Checks data, model, checkpoints and disk first; see
            :func:`mmscheme.checks.check_run`.

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
    prepare_run(cfg, ('train', 'val'), preflight)
    # A config may name a runner of its own, as in OpenMMLab's tools.
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def main(argv: Optional[List[str]] = None) -> None:
    """The command line: trains, and saves checkpoints in the work folder."""
    args = parse_args(argv)
    set_local_rank(args)
    warnings.filterwarnings('ignore', category=UserWarning, module='mm(engine|cv|seg|det)')
    with user_errors(args.debug) as started:
        cfg = load_config(args.config, args.work_dir, args.cfg_options, args.data_root)
        runner = build_train_runner(cfg, args.resume, args.amp, args.auto_scale_lr, args.launcher,
                                    args.pretrained, args.preflight)
        runner.register_hook(started)
        start = time.time()
        try:
            with lost_process():
                runner.train()
        finally:
            for line in describe_bad_data(bad_data_log(cfg), start) if is_main_process() else ():
                print_log(line, logger='current', level=logging.WARNING)
        leave_process_group()
