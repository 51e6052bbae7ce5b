"""Loaders that begin anywhere, against those that read everything before."""
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from mmscheme.engine.runners.randomness import seed_all
from mmscheme.engine.runners.resumable_batches import ResumableBatches, make_resumable


class Samples(Dataset):
    """Each sample is its index and a draw of every generator."""
    metainfo = {}

    def __init__(self, size=23):
        self.size = size

    def __len__(self):
        return self.size

    def get_data_info(self, index):
        return dict(width=10 + index * 7 % 5, height=12)

    def __getitem__(self, index):
        return index, random.random(), np.random.rand(), float(torch.rand(()))


def batches_of(kind, dataset, rank=0, world_size=1, batch_size=3):
    if kind == 'random':
        return BatchSampler(RandomSampler(dataset), batch_size, False)
    sampler = (InfiniteSampler if kind == 'infinite' else DefaultSampler)(dataset, seed=5)
    sampler.rank, sampler.world_size = rank, world_size
    if kind != 'infinite':
        sampler.num_samples = -(-len(dataset) // world_size)
        sampler.total_size = sampler.num_samples * world_size
    cls = AspectRatioBatchSampler if kind == 'aspect' else BatchSampler
    return cls(sampler, batch_size, False)


def resumable(kind, start=0, rank=0, world_size=1, batch_size=3, endless=False, size=23):
    found = ResumableBatches(batches_of(kind, Samples(size), rank, world_size, batch_size),
                             endless)
    found.rank, found.world_size = rank, world_size
    found.seed, found.start = 7, start
    return found


def loader(kind, workers, start=0, endless=False, **kwargs):
    dataset = Samples()
    found = make_resumable(DataLoader(dataset, batch_sampler=batches_of(kind, dataset),
                                      num_workers=workers, collate_fn=list, **kwargs), endless)
    found.batch_sampler.seed, found.batch_sampler.start = 7, start
    return found


def take(iterable, count):
    return [x for _, x in zip(range(count), iterable)]


@pytest.mark.parametrize('kind', ['default', 'aspect', 'random'])
def test_an_epoch_continues_without_repeating_or_skipping(kind):
    whole = list(resumable(kind))
    assert sorted(i for batch in whole for i in batch.indices) == list(range(23))
    assert len(whole) == len(resumable(kind)) == 8
    for start in range(9):
        assert list(resumable(kind, start)) == whole[start:]
    if kind == 'aspect':
        # The batches are of one orientation, but for the rest at the end of the epoch.
        shapes = [{Samples().get_data_info(i)['width'] < 12 for i in b.indices} for b in whole]
        assert sum(len(s) > 1 for s in shapes) <= 1


@pytest.mark.parametrize('kind', ['infinite', 'default'])
def test_an_endless_run_goes_on_over_the_ends_of_epochs(kind):
    whole = take(resumable(kind, endless=True), 40)
    for start in (0, 7, 8, 9, 31):
        assert take(resumable(kind, start, endless=True), 40 - start) == whole[start:]
    indices = [i for batch in whole for i in batch.indices]
    for epoch in range(5):
        assert sorted(indices[epoch * 23:epoch * 23 + 23]) == list(range(23))
    assert indices[:23] != indices[23:46]  # another order in the next
    places = [b.place + i * b.stride for b in whole for i in range(len(b.indices))]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize('kind, endless', [('default', False), ('aspect', True)])
def test_workers_draw_what_the_process_itself_draws(kind, endless):
    alone = take(loader(kind, 0, endless=endless), 10)
    assert len({draw for batch in alone for sample in batch for draw in sample[1:]}) == 3 * sum(
        map(len, alone))
    assert take(loader(kind, 2, endless=endless, persistent_workers=True), 10) == alone
    assert take(loader(kind, 3, 4, endless, prefetch_factor=3), 6) == alone[4:]
    later = loader(kind, 0)
    later.batch_sampler.epoch = 1
    assert [s[1] for b in take(later, 8) for s in b] != [s[1] for b in alone for s in b][:23]


@pytest.mark.parametrize('batch_size, world_size, again', [(4, 1, 0), (2, 2, 0), (1, 2, 0),
                                                           (5, 1, 2), (3, 3, 3)])
def test_other_processes_go_on_in_the_order_of_the_epoch(batch_size, world_size, again):
    size = 36
    before = [resumable('default', rank=r, world_size=2, size=size) for r in range(2)]
    seen = [i for b in before for batch in take(b, 2) for i in batch.indices]
    state = before[0].state(0, 2)
    assert state['samples'] == len(seen) == 12
    rest, places = [], []
    for rank in range(world_size):
        after = resumable('default', rank=rank, world_size=world_size, batch_size=batch_size,
                          size=size)
        after.sampler.seed = 99  # another run's, until it resumes
        after.start, changes = after.resume(state)
        line, = changes
        assert 'the checkpoint has 2 processes of 3: ' in line and f' {again} of them' in line
        for batch in after:
            rest += batch.indices
            places += [batch.place + i * batch.stride for i in range(len(batch))]
    order = torch.randperm(size, generator=torch.Generator().manual_seed(5)).tolist()
    assert sorted(seen) == sorted(order[:12]) and sorted(rest) == sorted(order[12 - again:])
    # The place decides the augmentation, whoever reads it.
    assert [order[p] for p in places] == rest


def test_another_data_set_begins_anew():
    state = resumable('default').state(0, 4)
    start, changes = resumable('default', size=24).resume(state)
    assert start == 0 and changes == ['24 training images, the checkpoint has 23: a new '
                                      'order is drawn']
    start, changes = resumable('default').resume(state)
    assert start == 4 and not changes


def test_data_without_a_batch_are_an_error_and_not_an_endless_wait():
    batches = ResumableBatches(BatchSampler(DefaultSampler(Samples(2)), 3, True), endless=True)
    with pytest.raises(ValueError, match='a batch of 3 images'):
        next(iter(batches))


def test_loaders_of_another_kind_are_left_alone():
    own = type('OwnLoader', (DataLoader, ), {})(Samples())
    single = DataLoader(Samples(), batch_size=None)
    stand_in = SimpleNamespace(batch_sampler=SimpleNamespace())
    for found in (own, single, stand_in):
        assert make_resumable(found, endless=False) is found


def test_keys_give_unrelated_numbers():
    draws = set()
    for key in [(0, 0), (0, 1), (1, 0), (2**31, 5), (3, 1, 4), (3, 1), (3, 4, 1)]:
        seed_all(*key)
        draws.add((random.random(), np.random.rand(), float(torch.rand(()))))
    assert len({d for draw in draws for d in draw}) == 3 * 7
