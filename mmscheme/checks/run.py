"""All checks of a run."""
from copy import deepcopy
from typing import Optional, Sequence

from mmengine import Config

from mmscheme.models.one_channel import use_own_parts

from .checkpoint import check_checkpoint, check_named_files
from .data import check_data
from .findings import Findings
from .model import build_for_checks, check_cca, check_ignored, check_sizes
from .rehearsal import rehearse
from .resources import (
    check_batch_size,
    check_disk,
    check_hooks,
    check_numbers,
    check_schedule,
    check_work_dir,
)

__all__ = ['check_run']


def check_run(cfg: Config, splits: Sequence[str], every: bool = False,
              findings: Optional[Findings] = None, *, stock_runtime: bool = False) -> Findings:
    """Check a run before its first iteration; takes seconds and changes nothing.

    Numbers, the arguments of hooks, data (see :func:`check_data`), the crop against the data
    preprocessor, checkpoints against the model, disk space for the checkpoints that will be
    written, and the batch size against the recipe's. If nothing is wrong with these, the run is
    rehearsed; see :func:`mmscheme.checks.rehearsal.rehearse`.

    Args:
        cfg: The config as it will be run, its default scope initialised.
        splits: The data that will be used; ``'train'`` among them means training.
        every: Read all images and masks.
        findings: Findings to add to.
        stock_runtime: The run will replace no part of the model by ours.

    Returns:
        The findings; nothing is raised.
    """
    findings = findings or (Findings(most=10**9) if every else Findings())
    training = 'train' in splits
    if training and not cfg.get('train_dataloader'):
        findings.error('train_dataloader: expected one in the config, found none')
        return findings
    if not stock_runtime:
        cfg = deepcopy(cfg)
        use_own_parts(cfg)  # the model that training builds
    check_numbers(cfg, splits, findings)
    check_hooks(cfg, findings)
    writable = check_work_dir(cfg, findings)
    check_data(cfg, splits, every, findings)
    check_sizes(cfg, findings)
    model = build_for_checks(cfg, findings)
    if model is not None:
        check_cca(cfg, model, training, findings)
        check_ignored(cfg, model, splits, findings)
    if training:
        check_named_files(cfg, findings)
        if writable:
            check_disk(cfg, model, findings)
        check_batch_size(cfg, findings)
    # Not the last one in the work folder, which is read before it is chosen.
    if cfg.get('load_from'):
        use = 'test' if not training else 'resume' if cfg.get('resume') else 'load_from'
        check_checkpoint(cfg.load_from, model, use, findings)
    epoch = None
    if model is not None and not findings.errors:
        epoch = rehearse(cfg, model, splits, findings)
    if training:
        check_schedule(cfg, findings, epoch)
    return findings
