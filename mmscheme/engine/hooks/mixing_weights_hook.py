"""A log of the CCA weights while a model trains."""
import logging
from typing import Any, Dict, List, Optional

from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from torch import nn

from mmscheme.layers import SCHEMEMixer
from mmscheme.registry import HOOKS
from mmscheme.utils.check_args import check_count

from .device_values import is_log_iter, read

__all__ = ['MixingWeightsHook', 'cca_weights', 'describe_cca_weights', 'find_mixers', 'shorten']

# CCA weights below this count as decayed: a percent of the FFN's weight.
_DECAYED = 0.01


def find_mixers(model: nn.Module) -> Dict[str, SCHEMEMixer]:
    """Return the SCHEME mixers with a guide of any model, also a wrapped one, by module name."""
    model = model.module if is_model_wrapper(model) else model
    return {name: m for name, m in model.named_modules()
            if isinstance(m, SCHEMEMixer) and m.guide is not None}


def find_averaged_mixers(runner: Any) -> Dict[str, SCHEMEMixer]:
    """Return the mixers of the averaged model of ``EMAHook``; empty without averages."""
    averages = [hook.ema_model.module for hook in runner.hooks if isinstance(hook, EMAHook)]
    return find_mixers(averages[0]) if averages else {}


def cca_weights(mixers: Dict[str, SCHEMEMixer]) -> Dict[str, float]:
    """Return the CCA weight ``1 - alpha`` of each mixer; waits once for the device."""
    return dict(zip(mixers, read([1 - m.alpha for m in mixers.values()])))


def shorten(names: List[str]) -> List[str]:
    """Return dotted names without the parts that all of them begin or end with."""
    parts = [name.split('.') for name in names]
    shortest = min((len(p) for p in parts), default=0)
    if len(parts) < 2:
        return list(names)
    same = [len({p[i] for p in parts}) == 1 for i in range(shortest)]
    start = same.index(False) if False in same else shortest
    same = [len({p[-1 - i] for p in parts}) == 1 for i in range(shortest - start)]
    end = same.index(False) if False in same else len(same)
    return ['.'.join(p[start:len(p) - end]) for p in parts]


def describe_cca_weights(mixers: Dict[str, SCHEMEMixer]) -> str:
    """Return a line that says if CCA, or a dense guide, has decayed, with each block's weight.

    Args:
        mixers: Mixers of :func:`find_mixers`, at least one.
    """
    weights = list(cca_weights(mixers).values())
    blocks = f'all {len(weights)} blocks' if len(weights) > 1 else 'the only block'
    listed = ', '.join(f'{name} {weight:.4f}'
                       for name, weight in zip(shorten(list(mixers)), weights))
    guide = 'the dense guide' if all(m.cca is None for m in mixers.values()) else 'CCA'
    if not any(weights):
        return f'{guide} has decayed: its weight is 0 in {blocks}, so dropping it changes nothing'
    kept = sum(not weight < _DECAYED for weight in weights)  # NaN has not decayed
    if not kept:
        return f'{guide} has decayed: its weight is below {_DECAYED} in {blocks}: {listed}'
    end = ('evaluation keeps it' if all(m.keep_cca for m in mixers.values()) else
           'evaluation drops it; `python -m mmscheme test ... --keep-cca` measures the difference')
    return (f'{guide} has NOT decayed in {kept} of {len(weights)} blocks ({end}); '
            f'its weights: {listed}')


@HOOKS.register_module()
class MixingWeightsHook(Hook):
    """Log alpha of every SCHEME mixer, and the mean CCA weight.

    Every visualization backend gets ``alpha/<module>`` for each block; the log line gets
    ``cca_weight``, the mean over the blocks. After training, a line says if CCA has decayed; a
    test that drops CCA starts with a warning if it has not. Models without CCA are left alone.

    Args:
        interval: Iterations between two entries; None stands for the interval of the log.

    Raises:
        TypeError, ValueError: ``interval`` is not a positive whole number.
    """

    def __init__(self, interval: Optional[int] = None) -> None:
        if interval is not None:
            check_count('interval', interval)
        self.interval = interval
        self._mixers: Dict[str, SCHEMEMixer] = {}

    def before_train(self, runner: Any) -> None:
        """Find the mixers of the model."""
        self._mixers = find_mixers(runner.model)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Optional[Any] = None,
                         outputs: Optional[Dict[str, Any]] = None) -> None:
        """Log the weights if it is time, because reading them waits for a GPU."""
        if not self._mixers or not (
                is_log_iter(runner, batch_idx) if self.interval is None else
                self.every_n_inner_iters(batch_idx, self.interval)
                or self.end_of_epoch(runner.train_dataloader, batch_idx)
                or runner.iter + 1 == runner.max_iters):
            return
        weights = cca_weights(self._mixers)
        # LoggerHook, which comes later, writes what is in the message hub.
        runner.message_hub.update_scalar('train/cca_weight', sum(weights.values()) / len(weights))
        runner.visualizer.add_scalars({f'alpha/{name}': 1 - w for name, w in weights.items()},
                                      step=runner.iter + 1)

    def before_test(self, runner: Any) -> None:
        """Warn if the test drops a branch that still counts."""
        mixers = find_mixers(runner.model)
        if mixers and not all(m.keep_cca for m in mixers.values()):
            line = describe_cca_weights(mixers)
            if 'NOT' in line:
                print_log(line, logger='current', level=logging.WARNING)

    def after_train(self, runner: Any) -> None:
        """Log if CCA has decayed."""
        frozen = {name for name, mixer in self._mixers.items()
                  if not any(p.requires_grad for p in mixer.parameters())}
        if frozen:
            print_log(f'{len(frozen)} frozen blocks keep their CCA weight, in training and in '
                      'evaluation', logger='current')
        saved = find_averaged_mixers(runner) or self._mixers
        trained = {name: mixer for name, mixer in saved.items() if name not in frozen}
        if trained:
            line = describe_cca_weights(trained)
            print_log(line, logger='current',
                      level=logging.WARNING if 'NOT' in line else logging.INFO)
