"""Losses, gradients and weights that are not finite."""
import logging
import math
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import AmpOptimWrapper, OptimWrapperDict
from torch import Tensor

from mmscheme.registry import HOOKS
from mmscheme.utils.check_args import check_count
from mmscheme.utils.user_errors import NonFiniteError

from .device_values import is_log_iter, read

__all__ = ['NonFiniteLossHook']


class _Iteration(NamedTuple):
    """A training iteration that has not been looked at, its tensors on the device."""
    number: int
    terms: Dict[str, Tensor]
    gradients: Dict[str, Tensor]  # largest absolute values by parameter
    stepped: bool
    files: List[str]


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Keep values that are not finite out of the weights, and stop a run that does not recover.

    If a gradient is not finite, torch's optimizers with ``fused=True``, as in the configs of
    mmscheme, leave the step out; for others all gradients of the step count as zero, so that the
    weights move by momentum alone. Running statistics of norms that are not finite are set back
    to those before the iteration. All this happens on the device, without waiting for it. When
    the log is written, each such iteration since the last time is a warning with the terms of
    the loss and the images; ``limit`` of them in a row stop the run. Weights that are not finite
    are never written into a checkpoint, so that the last one is good.

    With mixed precision the GradScaler leaves such steps out by itself. Those with a finite
    loss are normal and do not count; ``20 * limit`` of them in a row stop the run.

    Args:
        limit: Iterations in a row that are not finite before the run stops, a positive whole
            number.

    Raises:
        TypeError, ValueError: ``limit`` is not such a number.
        NonFiniteError: In training: the limit is reached, or weights are not finite when a
            checkpoint is due.
    """

    # Before checkpoints are written.
    priority = 'NORMAL'

    def __init__(self, limit: int = 5) -> None:
        check_count('limit', limit)
        self.limit = limit
        self._row = self._idle = 0
        self._stepped = False
        self._asked: Any = None  # the optimizer that is asked to leave out a spoilt step
        self._gradients: Dict[str, Tensor] = {}
        self._iterations: List[_Iteration] = []
        self._names: Dict[Tensor, str] = {}
        self._finite: List[str] = []
        self._buffers: List[Tuple[Tensor, Tensor]] = []
        self._handles: List[Any] = []

    def before_train(self, runner: Any) -> None:
        """Note which weights are finite now, and watch the optimizers."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._row = self._idle = 0
        self._iterations = []
        self._names = {p: name for name, p in model.named_parameters()}
        # Only these are watched, because some buffers hold infinities on purpose.
        weights = model.state_dict()
        bad = set(_not_finite(weights))
        self._finite = [k for k in weights if k not in bad]
        self._buffers = [(b, b.detach().clone()) for name, b in model.named_buffers()
                         if name not in bad and b.is_floating_point() and b.numel()]
        self._remove()
        for optimizer in _optimizers(runner).values():
            self._handles += [optimizer.register_step_pre_hook(self._before_step),
                              optimizer.register_step_post_hook(self._after_step)]

    def after_load_checkpoint(self, runner: Any, checkpoint: Dict[str, Any]) -> None:
        """Keep the config's choice of fused steps, which an older checkpoint would undo."""
        saved = checkpoint.get('optimizer') or {}
        for name, optimizer in _optimizers(runner).items():
            state = saved if name is None else saved.get(name) or {}
            for group in state.get('param_groups', ()):
                if 'fused' in optimizer.defaults:
                    group['fused'] = optimizer.defaults['fused']

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Optional[Any] = None
                          ) -> None:
        """Keep the statistics of norms."""
        self._gradients, self._stepped = {}, False
        for buffer, kept in self._buffers:
            kept.copy_(buffer)

    def _before_step(self, optimizer: Any, *args: Any) -> None:
        """Keep gradients that are not finite out of a step; the same in all processes."""
        self._stepped = True
        parameters = [p for g in optimizer.param_groups for p in g['params']
                      if p.grad is not None and p.grad.numel()]
        if not parameters:
            return
        largest = _largest([p.grad for p in parameters])
        spoilt = ~torch.isfinite(torch.stack(largest)).all()
        if _is_fused(optimizer):
            if not hasattr(optimizer, 'found_inf'):  # else the GradScaler has set it
                optimizer.found_inf = spoilt.float()
                self._asked = optimizer
        else:
            for p in parameters:
                p.grad.masked_fill_(spoilt, 0)
        self._gradients.update((self._names.get(p, '?'), v) for p, v in zip(parameters, largest))

    def _after_step(self, optimizer: Any, *args: Any) -> None:
        if optimizer is self._asked:
            del optimizer.found_inf
            self._asked = None

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Optional[Any] = None,
                         outputs: Optional[Dict[str, Any]] = None) -> None:
        """Restore the statistics of norms, and examine the losses if it is time."""
        for (buffer, kept), largest in zip(self._buffers, _largest([b for b, _ in self._buffers])):
            buffer.copy_(torch.where(torch.isfinite(largest), buffer, kept))
        terms = {k: v.detach().clone() for k, v in (outputs or {}).items()
                 if 'loss' in k and isinstance(v, Tensor) and v.numel() == 1}
        self._iterations.append(_Iteration(runner.iter + 1, terms, self._gradients, self._stepped,
                                           _files(data_batch)))
        if is_log_iter(runner, batch_idx):
            self._examine(runner)

    def _examine(self, runner: Any) -> None:
        """Read the values of all iterations since the last time, and judge them in order."""
        iterations, self._iterations = self._iterations, []
        values = iter(read([v for i in iterations
                            for v in (*i.terms.values(), *i.gradients.values())]))
        for iteration in iterations:
            terms = {name: next(values) for name in iteration.terms}
            bad = [name for name in iteration.gradients if not math.isfinite(next(values))]
            self._judge(runner, iteration, _bad_terms(terms), bad)

    def _judge(self, runner: Any, iteration: _Iteration, terms: List[str],
               gradients: List[str]) -> None:
        mixed = isinstance(runner.optim_wrapper, AmpOptimWrapper)
        # A fused optimizer is called for steps that the GradScaler leaves out, too.
        stepped = iteration.stepped and not gradients
        self._idle = 0 if stepped or not mixed else self._idle + 1
        # Of gradients that are accumulated only a step says that the run recovers.
        self._row = 0 if stepped and not terms else self._row
        if not terms and (mixed or not gradients):
            counts = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
            if self._idle >= 20 * self.limit * counts:
                raise NonFiniteError(
                    f'no step in {self._idle} iterations: gradients of mixed precision are not '
                    f'finite all the time, though the loss is; {_advice(runner)}')
            return
        self._row += 1
        if terms:
            problem = f'loss not finite: {", ".join(terms)}'
        else:
            problem = (f'gradients not finite, though the loss is: {len(gradients)} parameters, '
                       f'the first: {gradients[0]}')
        where, files = f'iteration {iteration.number}', iteration.files
        print_log(f'{problem} ({where}, {self._row} of {self.limit} in a row before the run '
                  f'stops); this step is skipped; images: {", ".join(files)}',
                  logger='current', level=logging.WARNING)
        if self._row >= self.limit:
            shown = ', '.join(files[:4]) + (f' and {len(files) - 4} more' if files[4:] else '')
            raise NonFiniteError(
                f'{problem} at {where}, {self._row} iterations in a row '
                f'(default_hooks.non_finite.limit); images: {shown}; {_advice(runner)}')

    def before_save_checkpoint(self, runner: Any, checkpoint: Dict[str, Any]) -> None:
        """Refuse weights that are not finite."""
        self._examine(runner)
        state = checkpoint.get('state_dict') or {}
        bad = _not_finite({k: state[k] for k in self._finite if isinstance(state.get(k), Tensor)})
        if bad:
            raise NonFiniteError(f'{len(bad)} weights are not finite at iteration {runner.iter}, '
                                 f'the first: {bad[0]}; no checkpoint is written; '
                                 f'{_advice(runner)}')

    def after_train(self, runner: Any) -> None:
        """Examine the last iterations, and stop watching."""
        self._remove()
        self._examine(runner)

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []


def _optimizers(runner: Any) -> Dict[Optional[str], Any]:
    """Return the optimizers of a run by their names, None for the only one; none in a test."""
    wrapper = runner.optim_wrapper
    wrappers = dict(wrapper.items()) if isinstance(wrapper, OptimWrapperDict) else {None: wrapper}
    return {name: w.optimizer for name, w in wrappers.items()
            if not isinstance(w, dict) and hasattr(w, 'optimizer')}


def _is_fused(optimizer: Any) -> bool:
    """Return True if an optimizer leaves out steps on the device, as a GradScaler asks it to.

    SGD's first one with momentum would leave the momentum as memory was found.
    """
    return (getattr(optimizer, '_step_supports_amp_scaling', False)
            and all(group.get('fused') and (not group.get('momentum') or optimizer.state)
                    for group in optimizer.param_groups))


def _largest(values: Sequence[Tensor]) -> List[Tensor]:
    """Return the largest absolute value of each tensor, on its device; NaN if it has one."""
    # As torch's get_total_norm does it: a few kernels for all, where one each would cost more
    # than the step.
    return list(torch._foreach_norm(list(values), math.inf)) if values else []


def _not_finite(weights: Dict[str, Tensor]) -> List[str]:
    """Return the names of weights that are not finite; waits once for the device."""
    floats = {k: v for k, v in weights.items() if v.is_floating_point() and v.numel()}
    return [k for k, v in zip(floats, read(_largest(list(floats.values()))))
            if not math.isfinite(v)]


def _bad_terms(terms: Dict[str, float]) -> List[str]:
    """Return the terms of a loss that are not finite; their sum only if no term is to blame."""
    bad = [f'{k}={v}' for k, v in terms.items() if not math.isfinite(v)]
    parts = [b for b in bad if not b.startswith('loss=')]
    return parts or bad


def _files(batch: Any) -> List[str]:
    """Return the images of a batch."""
    samples = batch.get('data_samples') if isinstance(batch, dict) else None
    found = [getattr(s, 'metainfo', {}).get('img_path') for s in samples] \
        if isinstance(samples, (list, tuple)) else []
    return [str(f) for f in found if f] or ['not known']


def _advice(runner: Any) -> str:
    pointer = Path(runner.work_dir) / 'last_checkpoint'
    try:
        last = pointer.read_text().strip()
    except OSError:
        last = ''
    return f'the last checkpoint is good: {last}' if last else 'no checkpoint was written yet'
