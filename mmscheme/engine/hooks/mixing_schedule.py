"""The schedule that takes CCA out of training."""
import math
from typing import Any, List, Optional, Sequence

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from mmscheme.layers import SCHEMEMixer
from mmscheme.registry import HOOKS

__all__ = ['MixingScheduleHook']


@HOOKS.register_module()
class MixingScheduleHook(Hook):
    """Lowers the weight ``1 - alpha`` of CCA to zero over a part of training.

    ``1 - alpha`` of every SCHEME mixer is multiplied by a factor that is 1 until
    ``decay[0]``, falls linearly and is 0 from ``decay[1]`` on. From there training
    and evaluation compute the same function, after a run of any length.

    The factor is a function of the iteration, and never rises: a run that resumes
    goes on where it was, and weights whose CCA has been retired stay without it
    when they are fine-tuned.

    Args:
        decay: Where the factor starts to fall and where it is 0, as fractions of
            training, ``0 <= decay[0] <= decay[1] <= 1``; None leaves alpha to itself.

    Raises:
        ValueError: ``decay`` is not such a pair.
    """

    def __init__(self, decay: Optional[Sequence[float]] = (0.5, 0.9)) -> None:
        if decay is None:
            decay = (math.inf, math.inf)
        elif len(decay) != 2 or not 0 <= decay[0] <= decay[1] <= 1:
            raise ValueError('decay: expected (start, end) with 0 <= start <= end <= 1, '
                             f'found {decay!r}')
        self.start, self.end = decay
        self._mixers: List[SCHEMEMixer] = []

    def factor(self, progress: float) -> float:
        """The factor at a fraction of training, both in [0, 1]."""
        if progress >= self.end:
            return 0.
        if progress <= self.start:
            return 1.
        return (self.end - progress) / (self.end - self.start)

    def before_train(self, runner: Any) -> None:
        """Finds the SCHEME mixers of the model."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._mixers = [m for m in model.modules()
                        if isinstance(m, SCHEMEMixer) and m.cca is not None]

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Optional[Any] = None
                          ) -> None:
        """Lowers the factor of all mixers to where the schedule is."""
        # The last iteration counts as the end of training, so that decay[1] = 1 is reached.
        limit = self.factor((runner.iter + 1) / runner.max_iters)
        if limit < 1:
            for mixer in self._mixers:
                mixer.lower_cca_factor(limit)
