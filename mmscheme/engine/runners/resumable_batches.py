"""Batches of a data loader that can begin anywhere without reading what comes before."""
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Tuple

from mmengine.dist import get_dist_info
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from .randomness import ORDER, SAMPLE, seed_all

__all__ = ['ResumableBatches', 'SeededBatch', 'make_resumable']


@dataclass
class SeededBatch:
    """Indices of a batch; iterating over them seeds the process for one sample after another.

    A loader iterates where it reads the samples: in its worker, or in the training process.

    Attributes:
        indices: Indices of the data set.
        key: Start of the key that seeds each sample.
        place: Place of the first sample in the order of all processes.
        stride: Places from one sample to the next.
    """
    indices: List[int]
    key: Tuple[int, ...]
    place: int
    stride: int

    def __iter__(self) -> Iterator[int]:
        for i, index in enumerate(self.indices):
            seed_all(*self.key, self.place + i * self.stride)
            yield index

    def __len__(self) -> int:
        return len(self.indices)


class ResumableBatches(BatchSampler):
    """The batches of another batch sampler, from any of them on.

    To get there it takes indices from the other one and drops them, which reads no image. It
    works with any sampler whose order follows from its seed and epoch or from torch's generators.
    The place of a sample in the order of all processes decides its augmentation, so that
    neither workers nor the number of processes matter.

    Args:
        batches: Batch sampler with ``sampler`` and ``batch_size``.
        endless: Continue with the next epoch at the end of one.

    Attributes:
        seed: Seed of the run, the same in all processes.
        epoch: Epoch of the next iteration over this object; 0 when endless.
        start: Batches that the next iteration leaves out.
    """

    def __init__(self, batches: Any, endless: bool = False) -> None:
        self.batches = batches
        self.sampler = batches.sampler
        self.batch_size = batches.batch_size
        self.drop_last = getattr(batches, 'drop_last', False)
        self.endless = endless
        self.rank, self.world_size = get_dist_info()
        self.seed = self.epoch = self.start = 0

    @property
    def per_iteration(self) -> int:
        """Samples of an iteration in all processes together."""
        return int(self.batch_size * self.world_size)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        start, self.start = self.start, 0
        for number, indices in enumerate(self._batches()):
            if number >= start:
                yield SeededBatch(list(indices), (self.seed, SAMPLE, self.epoch),
                                  number * self.per_iteration + self.rank, self.world_size)

    def _batches(self) -> Iterator[Any]:
        epoch = self.epoch
        while True:
            seed_all(self.seed, ORDER, epoch)
            empty = True
            for indices in self.batches:
                empty = False
                yield indices
            if not self.endless:
                return
            if empty:
                raise ValueError(f'too few training images for a batch of {self.batch_size} images')
            epoch += 1
            if hasattr(self.sampler, 'set_epoch'):
                self.sampler.set_epoch(epoch)

    def state(self, epoch: int, batches: int) -> Dict[str, Any]:
        """Return the position of training after a number of batches, in plain values."""
        return dict(epoch=epoch, samples=batches * self.per_iteration,
                    batch_size=self.batch_size, world_size=self.world_size,
                    dataset_size=_size(self.sampler),
                    sampler_seed=getattr(self.sampler, 'seed', None))

    def resume(self, state: Dict[str, Any]) -> Tuple[int, List[str]]:
        """Take over the sampler's seed and find the batch to continue with.

        Returns:
            The number of batches to leave out, and a sentence for each setting that has
            changed.
        """
        if state.get('sampler_seed') is not None:
            self.sampler.seed = state['sampler_seed']
        start, again = divmod(state['samples'], self.per_iteration)
        changes = []
        if (state['world_size'], state['batch_size']) != (self.world_size, self.batch_size):
            changes.append(
                f'{_processes(self.world_size)} of {self.batch_size} images per iteration, the '
                f'checkpoint has {_processes(state["world_size"])} of {state["batch_size"]}: the '
                f'order of the images continues, and {again} of them are seen again; the '
                'learning rate, and schedules that count iterations, do not change with it')
        if state['dataset_size'] != _size(self.sampler):
            changes.append(f'{_size(self.sampler)} training images, the checkpoint has '
                           f'{state["dataset_size"]}: a new order is drawn')
            start = 0
        return start, changes


def _processes(count: int) -> str:
    return f'{count} process{"es" * (count > 1)}'


def _size(sampler: Any) -> Any:
    dataset = getattr(sampler, 'dataset', getattr(sampler, 'data_source', None))
    return None if dataset is None else len(dataset)


def make_resumable(loader: DataLoader, endless: bool) -> DataLoader:
    """Return a loader with :class:`ResumableBatches` as its batch sampler.

    A loader that cannot begin anywhere is returned as it is: one with a class of its own, without
    batches of indices, or over a stream.
    """
    if (type(loader) is not DataLoader or not hasattr(loader.batch_sampler, 'batch_size')
            or not hasattr(loader.batch_sampler, 'sampler')
            or isinstance(loader.dataset, IterableDataset)):
        return loader
    same = ('num_workers', 'collate_fn', 'pin_memory', 'timeout', 'worker_init_fn',
            'multiprocessing_context', 'generator', 'prefetch_factor', 'persistent_workers',
            'pin_memory_device', 'in_order')
    return DataLoader(loader.dataset, batch_sampler=ResumableBatches(loader.batch_sampler, endless),
                      **{name: getattr(loader, name) for name in same if hasattr(loader, name)})
