"""Losses that are not finite: no step, no checkpoint, and a name for the cause."""
import logging
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import AmpOptimWrapper, OptimWrapperDict
from torch import Tensor
from torch.nn.utils import get_total_norm

from mmscheme.registry import HOOKS
from mmscheme.utils.check_args import check_count
from mmscheme.utils.user_errors import NonFiniteError

__all__ = ['NonFiniteLossHook']


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Keeps what is not finite out of the weights, and stops a run that does not recover.

    A step whose gradients are not finite is left out, as mixed precision's GradScaler does by
    itself, and running statistics of norms that it spoilt are put back. Each such iteration
    is a warning with the terms of the loss and the images; after ``limit`` in a row the run
    stops. Weights that are not finite are never written into a checkpoint, so that the last one
    is good.

    With mixed precision steps that the GradScaler leaves out while the loss is finite are
    normal and do not count; ``20 * limit`` of them in a row stop the run.

    Args:
        limit: Iterations in a row that are not finite before the run stops, a positive whole
            number.

    Raises:
        TypeError, ValueError: ``limit`` is none.
        NonFiniteError: In training: the limit is reached, or weights are not finite when a
            checkpoint is due.
    """

    # Before checkpoints are written.
    priority = 'NORMAL'

    def __init__(self, limit: int = 5) -> None:
        check_count('limit', limit)
        self.limit = limit
        self._row = 0
        self._idle = 0
        self._stepped = False
        self._bad_gradients: List[str] = []
        self._names: Dict[Tensor, str] = {}
        self._finite: List[str] = []
        self._buffers: List[Tuple[Tensor, Tensor]] = []
        self._handles: List[Any] = []

    def before_train(self, runner: Any) -> None:
        """Notes what is finite now, and watches the optimizers."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._row = self._idle = 0
        self._names = {p: name for name, p in model.named_parameters()}
        # Some buffers hold infinities on purpose.
        self._finite = [k for k, v in model.state_dict().items() if _is_finite(v)]
        good = set(self._finite)
        self._buffers = [(b, b.detach().clone()) for name, b in model.named_buffers()
                         if name in good and b.is_floating_point()]
        wrapper = runner.optim_wrapper
        wrappers = list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]
        self._remove()
        self._handles = [w.optimizer.register_step_pre_hook(self._before_step) for w in wrappers
                         if hasattr(w, 'optimizer')]

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Optional[Any] = None
                          ) -> None:
        """Keeps the statistics of norms."""
        self._bad_gradients, self._stepped = [], False
        for buffer, kept in self._buffers:
            kept.copy_(buffer)

    def _before_step(self, optimizer: Any, *args: Any) -> None:
        """Leaves a step out where a gradient is not finite; the same in all processes."""
        self._stepped = True
        parameters = [p for g in optimizer.param_groups for p in g['params']
                      if p.grad is not None]
        gradients = [p.grad for p in parameters]
        if not gradients or bool(torch.isfinite(get_total_norm(gradients, float('inf')))):
            return
        self._bad_gradients = [self._names.get(p, '?') for p in parameters
                               if not _is_finite(p.grad)]
        for p in parameters:
            p.grad = None  # optimizers pass over those

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Optional[Any] = None,
                         outputs: Optional[Dict[str, Any]] = None) -> None:
        """Counts what is not finite."""
        mixed = isinstance(runner.optim_wrapper, AmpOptimWrapper)
        terms = _bad_terms(outputs or {})
        self._idle = 0 if self._stepped or not mixed else self._idle + 1
        if not terms and (mixed or not self._bad_gradients):
            self._row = 0
            counts = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
            if self._idle >= 20 * self.limit * counts:
                raise NonFiniteError(
                    f'no step in {self._idle} iterations: gradients of mixed precision are not '
                    f'finite all the time, though the loss is; {_advice(runner)}')
            return
        self._row += 1
        for buffer, kept in self._buffers:
            if not _is_finite(buffer):
                buffer.copy_(kept)
        if terms:
            what = f'loss not finite: {", ".join(terms)}'
        else:
            what = (f'gradients not finite, though the loss is: {len(self._bad_gradients)} '
                    f'parameters, the first: {self._bad_gradients[0]}')
        files = _files(data_batch)
        where = f'iteration {runner.iter + 1}'
        print_log(f'{what} ({where}, {self._row} of {self.limit} in a row before the run stops); '
                  f'the step is left out; images: {", ".join(files)}', logger='current',
                  level=logging.WARNING)
        if self._row >= self.limit:
            shown = ', '.join(files[:4]) + (f' and {len(files) - 4} more' if files[4:] else '')
            raise NonFiniteError(
                f'{what} at {where}, {self._row} iterations in a row '
                f'(default_hooks.non_finite.limit); images: {shown}; {_advice(runner)}')

    def before_save_checkpoint(self, runner: Any, checkpoint: Dict[str, Any]) -> None:
        """Refuses weights that are not finite."""
        state = checkpoint.get('state_dict') or {}
        bad = [k for k in self._finite if isinstance(state.get(k), Tensor)
               and not _is_finite(state[k])]
        if bad:
            raise NonFiniteError(f'{len(bad)} weights are not finite at iteration {runner.iter}, '
                                 f'the first: {bad[0]}; no checkpoint is written; '
                                 f'{_advice(runner)}')

    def after_train(self, runner: Any) -> None:
        """Stops watching."""
        self._remove()

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []


def _is_finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value).all())


def _bad_terms(outputs: Dict[str, Any]) -> List[str]:
    """The terms of a loss that are not finite, with their values; one wait for the device."""
    terms = {k: v.detach().float().reshape(()) for k, v in outputs.items()
             if 'loss' in k and isinstance(v, Tensor) and v.numel() == 1}
    if not terms:
        return []
    values = dict(zip(terms, torch.stack(list(terms.values())).tolist()))
    bad = [f'{k}={v}' for k, v in values.items() if v != v or abs(v) == float('inf')]
    parts = [b for b in bad if not b.startswith('loss=')]
    return parts or bad


def _files(batch: Any) -> List[str]:
    """The images of a batch."""
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
