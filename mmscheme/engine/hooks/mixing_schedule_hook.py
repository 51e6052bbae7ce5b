"""The schedule that removes CCA during training."""
import math
from numbers import Real
from typing import Any, Dict, Optional, Sequence, Set

from mmengine.hooks import Hook

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

    Args:
        decay: Start and end of the fall as fractions of training,
            ``0 <= decay[0] <= decay[1] <= 1``; None leaves alpha to itself.
        retire: Stop computing the CCA of a block, and log it, once its CCA weight is below this
            at two checks in a row, for example 0.001. None always computes CCA.
        interval: Iterations between these checks.

    Raises:
        TypeError, ValueError: An argument is not as above; the message names it.
    """

    def __init__(self, decay: Optional[Sequence[float]] = (0.5, 0.9),
                 retire: Optional[float] = None, interval: int = 100) -> None:
        if decay is None:
            decay = (math.inf, math.inf)
        elif not (isinstance(decay, (list, tuple)) and len(decay) == 2
                  and all(isinstance(number, Real) for number in decay)
                  and 0 <= decay[0] <= decay[1] <= 1):
            raise ValueError('decay: expected (start, end) with 0 <= start <= end <= 1, '
                             f'found {decay!r}')
        if retire is not None:
            check_number('retire', retire, 'a number in (0, 1] or None', lambda n: 0 < n <= 1)
        check_count('interval', interval)
        self.start, self.end = float(decay[0]), float(decay[1])
        self.retire, self.interval = retire, interval
        self._mixers: Dict[str, SCHEMEMixer] = {}
        self._averages: Dict[str, SCHEMEMixer] = {}
        self._below: Set[str] = set()

    def factor(self, progress: float) -> float:
        """Return the factor at a fraction of training, both in [0, 1]."""
        if progress >= self.end:
            return 0.
        if progress <= self.start:
            return 1.
        return (self.end - progress) / (self.end - self.start)

    def before_train(self, runner: Any) -> None:
        """Find the SCHEME mixers of the model."""
        self._mixers = find_mixers(runner.model)
        self._averages = find_averaged_mixers(runner)
        # Because a resumed run has made its last check already.
        self._below = set(runner.message_hub.runtime_info.get(_BELOW, ()))

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Optional[Any] = None
                          ) -> None:
        """Lower the factor of all mixers that train, as the schedule says."""
        # The last iteration counts as the end of training, so that decay[1] = 1 is reached.
        limit = self.factor((runner.iter + 1) / runner.max_iters)
        if limit < 1:
            for name, mixer in self._mixers.items():
                if not mixer.training:  # frozen: its output stays as it is
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
                runner.logger.info(f'{name}: CCA retired, its CCA weight is {weight:.2g}')
            else:
                self._below.add(name)
        runner.message_hub.update_info(_BELOW, sorted(self._below))
