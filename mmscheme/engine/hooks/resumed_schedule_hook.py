"""The schedule of a run that resumes with another one."""
import logging
import warnings
from copy import copy
from types import SimpleNamespace
from typing import Any, Dict, List, Optional, Tuple

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapperDict, _ParamScheduler

from mmscheme.registry import HOOKS
from mmscheme.utils.checkpoint_io import make_plain

__all__ = ['ResumedScheduleHook']

# What changes while a scheduler steps; the rest of its state is the schedule.
_PROGRESS = ('last_step', '_global_step', '_last_value', 'verbose')

_Groups = List[Dict[str, Any]]


@HOOKS.register_module()
class ResumedScheduleHook(Hook):
    """Follow the config's schedule where it is another than that of the resumed checkpoint.

    mmengine goes on with the schedulers of the checkpoint, so a run that is made longer would
    train its extension at the learning rate of the old end, usually 0. With this hook the
    learning rate is the one that the new schedule has at this iteration, and a line says so.
    Where both are the same, nothing changes.
    """
    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._fresh: Dict[Optional[str], Tuple[_Groups, List[Any]]] = {}

    def after_load_checkpoint(self, runner: Any, checkpoint: Dict[str, Any]) -> None:
        """Keep the schedulers of the config, which mmengine fills with those of the file next."""
        for name, schedulers in _by_optimizer(runner.param_schedulers).items():
            # In a test they are still the settings of the config.
            if isinstance(schedulers, list) and schedulers and all(
                    isinstance(s, _ParamScheduler) for s in schedulers):
                groups = [{k: v for k, v in group.items() if k != 'params'}
                          for group in _groups(runner, name)]
                self._fresh[name] = groups, [copy(s) for s in schedulers]
        saved = checkpoint.get('optimizer') if getattr(runner, '_resume', False) else None
        if isinstance(saved, dict) and 'param_groups' in saved:
            _compare(runner.optim_wrapper.optimizer.param_groups, saved['param_groups'])

    def before_train(self, runner: Any) -> None:
        """Compare the schedules; the run knows its iteration now."""
        fresh, self._fresh = self._fresh, {}
        if fresh and runner.iter >= runner.max_iters:
            print_log(f'resumed at iteration {runner.iter} of {runner.max_iters}: nothing is left '
                      'to train', logger='current', level=logging.WARNING)
            return
        for name, (groups, schedulers) in fresh.items():
            resumed = _by_optimizer(runner.param_schedulers)[name]
            changes = [line for pair in zip(resumed, schedulers) for line in _differences(*pair)]
            if not changes:
                continue
            line = f'resumed with another schedule ({"; ".join(changes[:6])})'
            if any(getattr(s, 'need_val_args', False) for s in schedulers):
                line += ': that of the checkpoint goes on, because it depends on past metrics'
            else:
                own = _groups(runner, name)
                before = max(group['lr'] for group in own)
                _renew(runner, own, resumed, groups, schedulers)
                now = max(group['lr'] for group in own)
                line += (f': the new one is followed from iteration {runner.iter} on, learning '
                         f'rate {before:.3g} -> {now:.3g}')
            print_log(line, logger='current', level=logging.WARNING)


def _compare(groups: _Groups, saved: _Groups) -> None:
    """Report settings of the optimizer that torch takes from the checkpoint instead."""
    if len(groups) != len(saved) or ('betas' in groups[0]) != ('betas' in saved[0]):
        raise ValueError(f'resume: optim_wrapper gives {len(groups)} groups of parameters, or '
                         f'another optimizer than that of the checkpoint, with {len(saved)}: set '
                         'it as it was, or start from the weights alone with load_from')
    for key in sorted({*groups[0]} & {*saved[0]} - {'params', 'betas', 'momentum'}):
        if key.startswith('initial_') or f'initial_{key}' in saved[0]:  # schedulers move it
            continue
        pairs = [(old.get(key), new.get(key)) for old, new in zip(saved, groups)]
        for had, told in [pair for pair in pairs if pair[0] != pair[1]][:1]:
            print_log(f'resumed with {key}={had} of the checkpoint, not {told} of optim_wrapper',
                      logger='current', level=logging.WARNING)


def _by_optimizer(schedulers: Any) -> Dict[Optional[str], List[Any]]:
    """Return schedulers by the name of their optimizer, None for the only one."""
    return schedulers if isinstance(schedulers, dict) else {None: schedulers or []}


def _groups(runner: Any, name: Optional[str]) -> _Groups:
    """Return the parameter groups of an optimizer, with the one that mmengine logs as base."""
    wrapper = runner.optim_wrapper
    return (wrapper[name] if isinstance(wrapper, OptimWrapperDict) and name else
            wrapper).param_groups


def _differences(old: Any, new: Any) -> List[str]:
    states = [make_plain({k: v for k, v in s.state_dict().items() if k not in _PROGRESS})
              for s in (old, new)]
    return [f'{type(new).__name__} {key}' + (
        '' if isinstance(states[1].get(key), (list, dict)) else
        f' {states[0].get(key)} -> {states[1].get(key)}')
        for key in sorted({*states[0], *states[1]}) if states[0].get(key) != states[1].get(key)]


def _renew(runner: Any, own: _Groups, resumed: List[Any], groups: _Groups, schedulers: List[Any]
           ) -> None:
    """Step the schedulers from the start of the run to its iteration, and load what they give."""
    # Groups that start alike stay alike, and each takes time.
    texts = [repr(sorted(group.items())) for group in groups]
    kinds = list(dict.fromkeys(texts))
    firsts = [texts.index(kind) for kind in kinds]
    stand_in = SimpleNamespace(param_groups=[dict(groups[i]) for i in firsts], step=None,
                               _global_step=1)
    for scheduler in schedulers:
        scheduler.optimizer, scheduler.verbose = stand_in, False
        scheduler.base_values = [scheduler.base_values[i] for i in firsts]
    length = len(runner.train_dataloader)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # no optimizer makes steps here
        for iteration in range(1, runner.iter + 1):
            epoch, rest = divmod(iteration, length)
            for scheduler in schedulers:
                if not scheduler.by_epoch:
                    scheduler.step()
            for scheduler in schedulers if not rest and epoch <= runner.epoch else ():
                if scheduler.by_epoch:
                    scheduler.step()
    numbers = [kinds.index(text) for text in texts]
    for group, number in zip(own, numbers):
        new = stand_in.param_groups[number]
        group.update({k: v for k, v in new.items() if k.startswith('initial_')
                      or f'initial_{k}' in new or k == 'betas' and 'initial_momentum' in new})
    for old, scheduler in zip(resumed, schedulers):
        state = scheduler.state_dict()
        for key in ('base_values', '_last_value'):
            state[key] = [getattr(scheduler, key)[number] for number in numbers]
        old.load_state_dict(state)
