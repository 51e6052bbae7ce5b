"""mmengine's training loops, resuming exactly where they were."""
import logging
from itertools import islice
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

from mmengine.dist import broadcast_object_list, get_rank
from mmengine.logging import print_log
from mmengine.runner import BaseLoop
from mmengine.runner import EpochBasedTrainLoop as _EpochBasedTrainLoop
from mmengine.runner import IterBasedTrainLoop as _IterBasedTrainLoop
from mmengine.runner.utils import calc_dynamic_intervals
from torch import nn
from torch.utils.data import DataLoader

from mmscheme.registry import LOOPS

from .randomness import ITERATION, seed_all
from .resumable_batches import ResumableBatches, make_resumable

__all__ = ['EpochBasedTrainLoop', 'IterBasedTrainLoop']

# Under this name the message hub carries the position into and out of checkpoints.
_POSITION = 'train_position'


class _Position:
    """The position of a training loop, which is in the message hub when a checkpoint is saved."""
    runner: Any
    dataloader: DataLoader
    val_begin: int
    val_interval: int
    _iter: int
    _epoch: int
    _by_epoch: bool

    def _find_position(self) -> int:
        """Return the batches to leave out at first; the state of the run has been loaded."""
        seeds = [self.runner.seed]
        broadcast_object_list(seeds)  # with diff_rank_seed each process has one of its own
        self._seed = seeds[0]
        # In the epoch, or in all where it is one.
        done = self._iter - self._epoch * len(self.dataloader) if self._by_epoch else self._iter
        self._validated: Optional[int] = None
        self._resumed = self._iter > 0
        batches = self.dataloader.batch_sampler
        if not isinstance(batches, ResumableBatches):
            if done > 0:
                print_log(f'{type(self.dataloader).__name__}: its first {done} batches are read '
                          'again and skipped', logger='current', level=logging.WARNING)
            return max(0, done)
        batches.seed = self._seed
        state = self.runner.message_hub.runtime_info.get(_POSITION) if self._resumed else None
        if not state:  # the checkpoint of another loop
            self._validated = self._count()
            return done if 0 < done <= len(batches) or not self._by_epoch else 0
        self._validated = state['validated']
        if state['epoch'] == self._epoch:
            # A hook may have saved before the step that the position counts already.
            behind = (state['iter'] - self._iter) * state['world_size'] * state['batch_size']
            state = dict(state, samples=max(0, state['samples'] - behind))
        start, changes = batches.resume(state)
        if state['epoch'] != self._epoch:
            start = 0
        for change in changes:
            print_log(f'resumed with {change}', logger='current', level=logging.WARNING)
        if changes and self._by_epoch:
            # The end of training is so many epochs of this length.
            self._iter = self._epoch * len(batches) + start
        return start

    def _count(self) -> int:
        return self._epoch if self._by_epoch else self._iter

    def _note_position(self, epoch: int, batches: int, iteration: int) -> None:
        """Note the position: batches of the epoch and iterations in all."""
        sampler = self.dataloader.batch_sampler
        if isinstance(sampler, ResumableBatches):
            state = dict(sampler.state(epoch, batches), iter=iteration, validated=self._validated)
            self.runner.message_hub.update_info(_POSITION, state)

    def _seed_iteration(self) -> None:
        seed_all(self._seed, ITERATION, self._iter, get_rank())

    def _validate(self, end: int) -> None:
        """Validate if it is time."""
        count = self._count()
        if (self.runner.val_loop is None or count < self.val_begin
                or count % self.val_interval and count != end):
            return
        self._validated = count
        state = self.runner.message_hub.runtime_info.get(_POSITION)
        if state:  # for the checkpoint that a new best score brings
            self.runner.message_hub.update_info(_POSITION, dict(state, validated=count))
        self.runner.val_loop.run()

    def _validate_first(self, end: int) -> None:
        """Validate what the resumed run had saved but not validated."""
        if self._resumed and self._validated != self._count():
            self._validate(end)

    def _read(self, start: int) -> Iterator[Any]:
        """Return the batches of the loader from ``start`` on."""
        sampler = self.dataloader.batch_sampler
        if isinstance(sampler, ResumableBatches):
            sampler.start = start
            return iter(self.dataloader)
        return islice(self.dataloader, start, None)


@LOOPS.register_module()
class EpochBasedTrainLoop(_Position, _EpochBasedTrainLoop):
    """mmengine's loop over epochs, which resumes in the middle of an epoch too.

    A resumed run sees the images, augmentations and random numbers that it would have seen,
    with any number of workers; nothing is read again to get there. If the run ended between a
    checkpoint and its validation, it validates first.

    Args:
        runner, dataloader, max_epochs, val_begin, val_interval, dynamic_intervals: As in mmengine.
    """
    _by_epoch = True

    def __init__(self, runner: Any, dataloader: Union[DataLoader, Dict[str, Any]], max_epochs: int,
                 val_begin: int = 1, val_interval: int = 1,
                 dynamic_intervals: Optional[List[Tuple[int, int]]] = None) -> None:
        super().__init__(runner, dataloader, max_epochs, val_begin, val_interval,
                         dynamic_intervals)
        self.dataloader = make_resumable(self.dataloader, endless=False)
        self._start = 0

    def run(self) -> nn.Module:
        """Train."""
        self._start = self._find_position()
        self.runner.call_hook('before_train')
        self._decide_current_val_interval()
        if not self._start:
            self._validate_first(self._max_epochs)
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._decide_current_val_interval()
            self._validate(self._max_epochs)
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self) -> None:
        """Train the epoch, or the rest of it."""
        start, self._start = self._start, 0
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        if isinstance(self.dataloader.batch_sampler, ResumableBatches):
            self.dataloader.batch_sampler.epoch = self._epoch
        for idx, data_batch in enumerate(self._read(start), start):
            self.run_iter(idx, data_batch)
        self._note_position(self._epoch + 1, 0, self._iter)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        """Train one batch, the one with number ``idx`` in the epoch."""
        self._note_position(self._epoch, idx + 1, self._iter + 1)
        self._seed_iteration()
        super().run_iter(idx, data_batch)


@LOOPS.register_module()
class IterBasedTrainLoop(_Position, _IterBasedTrainLoop):
    """mmengine's loop over iterations, resuming as :class:`EpochBasedTrainLoop` does.

    Args:
        runner, dataloader, max_iters, val_begin, val_interval, dynamic_intervals: As in mmengine.
    """
    _by_epoch = False

    def __init__(self, runner: Any, dataloader: Union[DataLoader, Dict[str, Any]], max_iters: int,
                 val_begin: int = 1, val_interval: int = 1000,
                 dynamic_intervals: Optional[List[Tuple[int, int]]] = None) -> None:
        # Not mmengine's own, which starts to read before it is known from where.
        BaseLoop.__init__(self, runner, dataloader)
        self.dataloader = make_resumable(self.dataloader, endless=True)
        if int(max_iters) != max_iters:
            raise ValueError(f'max_iters: expected a whole number, found {max_iters!r}')
        self._max_iters = int(max_iters)
        self._max_epochs = 1
        self._epoch = self._iter = 0
        self.val_begin, self.val_interval = val_begin, val_interval
        self.stop_training = False
        self.runner.visualizer.dataset_meta = getattr(self.dataloader.dataset, 'metainfo', None)
        self.dynamic_milestones, self.dynamic_intervals = calc_dynamic_intervals(
            val_interval, dynamic_intervals)

    def run(self) -> nn.Module:
        """Train."""
        start = self._find_position()
        self._first = self._iter - start
        self.runner.call_hook('before_train')
        # All of training is one epoch to the hooks.
        self.runner.call_hook('before_train_epoch')
        self._decide_current_val_interval()
        self._validate_first(self._max_iters)
        self.dataloader_iterator = self._read(start)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            self._decide_current_val_interval()
            self._validate(self._max_iters)
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_iter(self, data_batch: Sequence[dict]) -> None:
        """Train one batch."""
        self._note_position(self._epoch, self._iter + 1 - self._first, self._iter + 1)
        self._seed_iteration()
        super().run_iter(data_batch)
