"""The schedule that removes CCA during training."""
import logging
import math
from numbers import Real
from typing import Any, Dict, Optional, Sequence, Set, Tuple

from mmengine.hooks import Hook
from mmengine.logging import print_log

from mmscheme.layers import SCHEMEMixer
from mmscheme.registry import HOOKS
from mmscheme.utils.check_args import check_count, check_number

from .mixing_weights_hook import cca_weights, find_averaged_mixers, find_mixers

__all__ = ['MixingScheduleHook']

# Key in the message hub: the blocks whose CCA weight was below `retire` at the last check.
_BELOW = 'cca_below_retire'


@HOOKS.register_module()
class MixingScheduleHook(Hook):
    """Lower the CCA weight to zero over a part of training.

    The CCA weight of every SCHEME mixer is multiplied by a factor that is 1 until
    ``decay[0]``, falls linearly and is 0 from ``decay[1]`` on. From there training
    and evaluation compute the same function, after a run of any length.

    The factor depends on the iteration and never rises: a resumed run continues where it was,
    and weights whose CCA has been retired stay without CCA when they are fine-tuned. Frozen
    stages, which are in evaluation mode, keep their factor; the averages of ``EMAHook``
    follow.

    The weight of dense guides falls along half a cosine, over ``dense_decay``.

    Args:
        decay: Start and end of the fall as fractions of training,
            ``0 <= decay[0] <= decay[1] <= 1``; None leaves alpha to itself.
        retire: Stop computing the CCA of a block, and log it, once its CCA weight is below this
            at two checks in a row, for example 0.001. None computes it until the factor is 0.
        interval: Iterations between these checks.
        dense_decay: Start and end for dense guides.

    Raises:
        TypeError, ValueError: An argument is not as above; the message names it.
    """

    def __init__(self, decay: Optional[Sequence[float]] = (0.5, 0.9),
                 retire: Optional[float] = None, interval: int = 100,
                 dense_decay: Sequence[float] = (0., 0.5)) -> None:
        if retire is not None:
            check_number('retire', retire, 'a number in (0, 1] or None', lambda n: 0 < n <= 1)
        check_count('interval', interval)
        self.decay = (math.inf, math.inf) if decay is None else _read_range('decay', decay)
        self.dense_decay = _read_range('dense_decay', dense_decay)
        self.retire, self.interval = retire, interval
        self._mixers: Dict[str, SCHEMEMixer] = {}
        self._averages: Dict[str, SCHEMEMixer] = {}
        self._below: Set[str] = set()

    def factor(self, progress: float, dense: bool = False) -> float:
        """Return the factor of CCA, or of dense guides, at a fraction of training in [0, 1]."""
        start, end = self.dense_decay if dense else self.decay
        if progress >= end:
            return 0.
        if progress <= start:
            return 1.
        left = (end - progress) / (end - start)
        return (1 - math.cos(math.pi * left)) / 2 if dense else left

    def before_train(self, runner: Any) -> None:
        """Find the SCHEME mixers of the model; let dense guides start from their weights."""
        self._mixers = find_mixers(runner.model)
        self._averages = find_averaged_mixers(runner)
        # Because a resumed run has made its last check already.
        self._below = set(runner.message_hub.runtime_info.get(_BELOW, ()))
        for dense, guide in ((False, 'CCA'), (True, 'dense guides')):
            mixers = [m for m in self._mixers.values() if (m.cca is None) == dense]
            limit = self.factor((runner.iter + 1) / runner.max_iters, dense)
            lowest = min((float(m.cca_factor) for m in mixers
                          if self.retire is None or not m.cca_retired), default=1.)
            if runner.iter and lowest < limit:
                print_log(f'resumed with {guide} at {lowest:.3g} of the weight, which stays there: '
                          f'the schedule of this length would have {limit:.3g}, and never raises '
                          'it', logger='current', level=logging.WARNING)
            for mixer in mixers if runner.iter == 0 else ():
                # Because the initialisation of some models rescales layers in place.
                mixer.start_guide()

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Optional[Any] = None
                          ) -> None:
        """Lower the factor of all mixers that train, as the schedule says."""
        # The last iteration counts as the end of training, so that decay[1] = 1 is reached.
        progress = (runner.iter + 1) / runner.max_iters
        limits = [self.factor(progress, dense) for dense in (False, True)]
        for name, mixer in self._mixers.items():
            limit = limits[mixer.cca is None]
            if limit == 1 or not mixer.training:  # frozen: its output stays as it is
                continue
            mixer.lower_cca_factor(limit)
            if name in self._averages:  # because the average of the factors lags behind
                self._averages[name].lower_cca_factor(limit)
        if self.retire is not None and runner.iter % self.interval == 0:
            self._retire(runner, self.retire)

    def _retire(self, runner: Any, threshold: float) -> None:
        """Retire the CCA of blocks that were below the threshold at the last check too."""
        before, self._below = self._below, set()
        for name, weight in cca_weights(self._mixers).items():
            mixer = self._mixers[name]
            if mixer.cca_retired or not mixer.training or weight >= threshold:
                continue
            if name in before:
                mixer.retire_cca()
                guide = 'dense guide' if mixer.cca is None else 'CCA'
                runner.logger.info(f'{name}: {guide} retired, its weight is {weight:.2g}')
            else:
                self._below.add(name)
        runner.message_hub.update_info(_BELOW, sorted(self._below))


def _read_range(name: str, value: Any) -> Tuple[float, float]:
    if not (isinstance(value, (list, tuple)) and len(value) == 2
            and all(isinstance(number, Real) for number in value)
            and 0 <= value[0] <= value[1] <= 1):
        raise ValueError(f'{name}: expected (start, end) with 0 <= start <= end <= 1, '
                         f'found {value!r}')
    return float(value[0]), float(value[1])
