"""The choice of the fastest implementation, with times that are made up."""
import json
import logging
import multiprocessing
import socket
from datetime import timedelta
from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from mmscheme.layers import BlockDiagonalMLP
from mmscheme.ops import block_diagonal_mlp, dispatch, measured
from mmscheme.utils.processes import leave_process_group


class OnGPU(torch.Tensor):
    is_cuda = True


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Nothing is known yet, and what becomes known is kept in a folder of the test."""
    monkeypatch.setattr(measured, '_chosen', {})
    monkeypatch.setattr(measured, '_file', lambda: tmp_path / 'choices.json')
    return tmp_path / 'choices.json'


def choose(seconds, monkeypatch, ffn=None, x=None, alternatives=None):
    """Return the choice where each alternative takes so long, and who was timed."""
    ffn = ffn or BlockDiagonalMLP(8, groups=2)
    x = torch.randn(2, 50, 8) if x is None else x
    timed, running = [], []
    forms = {name: (lambda x, name=name: (running.append(name), ffn._layer_by_layer(x))[1])
             for name in seconds}
    forms.update(alternatives or {})

    def time_call(call, device):
        call()
        timed.append(running[-1])
        cost = seconds[running[-1]]
        return cost if isinstance(cost, measured.Cost) else measured.Cost(cost, cost)
    monkeypatch.setattr(measured, 'time_call', time_call)
    return measured.choose_fastest(x, ffn.arguments(), lambda: forms, 'triton'), timed


def test_the_fastest_is_taken_said_once_and_kept(fresh, monkeypatch, caplog):
    slow_kernel = dict(plain=2., batched=3., triton=2.5)
    with caplog.at_level(logging.INFO, 'mmscheme'):
        assert choose(slow_kernel, monkeypatch)[0] == 'plain'
        choice, timed = choose(dict(plain=2., triton=1.), monkeypatch)
        assert choice == 'plain' and not timed  # known
    assert len(caplog.records) == 1
    assert 'triton 2500.000 and 2500.000' in caplog.records[0].getMessage()
    measured._chosen.clear()  # another process
    choice, timed = choose(dict(plain=2., triton=1.), monkeypatch)
    assert choice == 'plain' and not timed
    assert list(json.loads(fresh.read_text()).values()) == ['plain/plain']
    fresh.write_text('damaged')
    measured._chosen.clear()
    assert choose(dict(plain=2., triton=1.), monkeypatch)[0] == 'triton'


def test_the_larger_cost_decides_and_in_a_cuda_graph_the_device(fresh, monkeypatch):
    x = torch.randn(2, 50, 8).as_subclass(OnGPU)
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: False)
    costs = dict(plain=measured.Cost(2., 3.), batched=measured.Cost(1., 5.),
                 triton=measured.Cost(4., 1.))
    assert choose(costs, monkeypatch, x=x)[0] == 'plain'
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: True)
    assert choose(costs, monkeypatch, x=x) == ('triton', [])
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: False)
    measured._chosen.clear()
    fresh.write_text(fresh.read_text().replace('plain/triton', 'plain'))  # of an older version
    costs['triton'] = measured.Cost(2.5, 1.)
    assert choose(costs, monkeypatch, x=x)[0] == 'triton'


def test_kinds_of_input_are_measured_apart(fresh, monkeypatch):
    ffn = BlockDiagonalMLP(8, groups=2)
    rows = torch.randn(2, 50, 8)
    inputs = [rows, torch.randn(2, 500, 8), rows.double(), torch.randn(2, 8, 10, 5),
              torch.randn(2, 8, 50).transpose(1, 2)]
    ffn.double()
    for x in inputs:
        ffn.to(x.dtype)
        assert choose(dict(plain=1., triton=2.), monkeypatch, ffn, x)[1] == ['plain', 'triton']
        with torch.no_grad():
            assert len(choose(dict(plain=1., triton=2.), monkeypatch, ffn, x)[1]) == 2
    ffn.float()
    # 100 tokens and 70 are of one size.
    assert not choose(dict(plain=1., triton=2.), monkeypatch, ffn, torch.randn(2, 35, 8))[1]


def test_what_is_wrong_or_raises_is_not_taken(fresh, monkeypatch, caplog):
    ffn = BlockDiagonalMLP(8, groups=2)

    def wrong(x):
        return 1.5 * ffn._layer_by_layer(x)

    def broken(x):
        raise RuntimeError('out of resource\nand more')

    def spoilt(x):  # in the gradient alone
        return ffn._layer_by_layer(x) + (0 * x).sqrt()
    with caplog.at_level(logging.WARNING, 'mmscheme'):
        choice, timed = choose(
            dict(plain=3., triton=1., batched=1., spoilt=1.), monkeypatch, ffn,
            alternatives=dict(triton=wrong, batched=broken, spoilt=spoilt))
    assert choice == 'plain' and timed == ['plain']
    text = ' '.join(r.getMessage() for r in caplog.records)
    assert 'triton is not used' in text and 'off by' in text and 'out of resource' in text
    assert 'spoilt is not used' in text


def test_memory_that_runs_out_ends_nothing(fresh, monkeypatch):
    def large(x):
        raise torch.cuda.OutOfMemoryError('no memory')
    assert choose(dict(plain=1., triton=2.), monkeypatch,
                  alternatives=dict(plain=large))[0] == 'triton'


def test_gradients_of_the_run_are_left_alone(fresh, monkeypatch):
    ffn, x = BlockDiagonalMLP(8, groups=2), torch.randn(2, 50, 8, requires_grad=True)
    choose(dict(plain=1., triton=2.), monkeypatch, ffn, x)
    assert x.grad is None and all(p.grad is None for p in ffn.parameters())


def test_a_choice_inside_a_checkpointed_block_leaves_it_as_it_is(fresh, caplog):
    ffn = BlockDiagonalMLP(8, groups=2, implementation='plain')
    chosen = []

    def block(x):
        forms = {name: partial(block_diagonal_mlp, **ffn.arguments(), implementation=name)
                 for name in ('batched', 'chunked')}
        chosen.append(measured.choose_fastest(
            x, ffn.arguments(), lambda: {'plain': ffn._layer_by_layer, **forms}, 'stated'))
        return ffn(x)
    x = torch.randn(2, 50, 8, requires_grad=True)
    wanted = torch.autograd.grad(ffn(x).square().sum(), [x, *ffn.parameters()])
    y = checkpoint(block, x, use_reentrant=False)
    found = torch.autograd.grad(y.square().sum(), [x, *ffn.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(found, wanted))
    assert len(chosen) == 2 and len(set(chosen)) == 1 and 'not used' not in caplog.text
    assert [v.split('/')[0] for v in json.loads(fresh.read_text()).values()] == chosen[:1]


def test_nothing_is_timed_where_it_must_not(fresh, monkeypatch):
    torch.use_deterministic_algorithms(True)
    try:
        assert choose(dict(plain=1., triton=2.), monkeypatch) == ('triton', [])
    finally:
        torch.use_deterministic_algorithms(False)
    with monkeypatch.context() as patched:
        patched.setattr(torch.compiler, 'is_compiling', lambda: True)
        assert choose(dict(plain=1., triton=2.), monkeypatch) == ('triton', [])
    assert not measured._chosen

    x = torch.randn(2, 50, 8).as_subclass(OnGPU)
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: True)
    assert choose(dict(plain=1., triton=2.), monkeypatch, x=x) == ('triton', [])
    key = measured._kind(x, BlockDiagonalMLP(8, groups=2).arguments(), True)
    measured._chosen[key] = 'plain/batched'
    assert choose(dict(plain=1., triton=2.), monkeypatch, x=x) == ('batched', [])


def test_export_and_the_switch_come_before_any_choice(monkeypatch):
    x = torch.randn(2, 50, 8).as_subclass(OnGPU)
    monkeypatch.setattr(dispatch, '_triton_cannot', lambda *args: None)
    monkeypatch.setattr(dispatch, 'choose_fastest', lambda *args, **kwargs: 'batched')
    ffn = BlockDiagonalMLP(8, groups=2)
    assert ffn.choose(x) == 'batched'
    with monkeypatch.context() as patched:
        patched.setattr(dispatch, '_is_exporting', lambda: True)
        assert ffn.choose(x) == 'plain'
    monkeypatch.setattr(dispatch, 'FUSED', False)
    assert ffn.choose(x) == 'plain'


def test_a_process_that_does_not_answer_ends_nothing(monkeypatch, caplog):
    store = torch.distributed.HashStore()
    store.set('mmscheme: a kind: by', '1')  # which never says what it found
    monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.distributed, 'get_world_size', lambda: 2)
    monkeypatch.setattr(torch.distributed, 'get_rank', lambda: 0)
    monkeypatch.setattr(torch.distributed.distributed_c10d, '_get_default_store', lambda: store)
    monkeypatch.setattr(measured, '_WAIT', timedelta(milliseconds=50))
    assert measured._agree('a kind', 'triton', lambda: 'plain') == 'triton'
    assert 'did not answer' in caplog.text
    assert measured._agree('another kind', 'triton', lambda: 'plain') == 'plain'


def _process(rank, port, seconds, results):
    store = torch.distributed.TCPStore('127.0.0.1', port, 2, rank == 0)
    torch.distributed.init_process_group('gloo', store=store, rank=rank, world_size=2)
    measured._file = lambda: measured.Path('/dev/null/none')
    monkeypatch = pytest.MonkeyPatch()
    found = choose(seconds[rank], monkeypatch)
    results.put((rank, *found))
    leave_process_group()


@pytest.mark.slow
def test_all_processes_of_a_run_take_one_choice():
    context = multiprocessing.get_context('spawn')
    results = context.Queue()
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    processes = [context.Process(target=_process, args=(
        rank, port, [dict(plain=1., triton=2.), dict(plain=2., triton=1.)], results))
        for rank in range(2)]
    for process in processes:
        process.start()
    found = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(60)
    assert len({choice for _, choice, _ in found}) == 1
    assert sorted(len(timed) for _, _, timed in found) == [0, 2]  # one of them measured

