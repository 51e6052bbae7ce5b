"""The benchmark: what it compares computes the same, and what it says follows from its times."""
import json
import sys
import time

import pytest
import torch

from mmscheme.analysis.throughput import Ceilings, peak_memory, take_turns
from mmscheme.layers import BlockDiagonalMLP, SCHEMEMixer
from mmscheme.ops import block_diagonal_mlp
from tests.commands import load_script, load_tool
from tests.utils import REPOSITORY, readme_commands, run

benchmark = load_tool('analysis_tools/benchmark')
contenders = load_script('benchmarks/contenders.py')

CPU = torch.device('cpu')


def test_contenders_compute_the_same():
    torch.manual_seed(0)
    mixer = SCHEMEMixer(16).eval()
    x = torch.randn(2, 16, 5, 3)
    tokens = x.flatten(2).transpose(1, 2).contiguous()
    expected = mixer.ffn(x)
    assert torch.allclose(contenders._grouped(mixer.ffn)(x), expected, atol=1e-6)
    batched = block_diagonal_mlp(tokens, **mixer.ffn.arguments(), implementation='batched')
    assert torch.allclose(batched.transpose(1, 2).view_as(x), expected, atol=1e-6)
    trained = contenders._with_cca(contenders._grouped(mixer.ffn), mixer)(x)
    assert torch.allclose(trained, mixer.train()(x), atol=1e-6)
    dense = BlockDiagonalMLP(16, 64, 1)
    forms = contenders._dense(dense)
    last = forms['channels last'](x.contiguous(memory_format=torch.channels_last))
    assert torch.allclose(forms['convolutions'](x), dense(x), atol=1e-6)
    assert torch.allclose(last, dense(x), atol=1e-6)
    assert torch.allclose(forms['tokens'](tokens).transpose(1, 2).view_as(x), dense(x), atol=1e-6)


def test_turns_medians_and_memory():
    naps = iter([0.02] * 2 + [0.05, 0.001, 0.02, 0.02, 0.02])
    order = []

    def nap():
        order.append('nap')
        time.sleep(next(naps))

    found = take_turns({'nap': nap, 'none': lambda: order.append('none')}, CPU, rounds=5)
    assert 0.02 <= found['nap'].seconds < 0.045 and found['nap'].fastest < 0.02
    assert found['none'].seconds < 0.01
    # Two calls each before: one to warm up, one for memory. Then each round has its own order.
    rounds = [order[i:i + 2] for i in range(4, 14, 2)]
    assert all(sorted(r) == ['nap', 'none'] for r in rounds) and ['nap', 'none'] in rounds
    assert ['none', 'nap'] in rounds
    size = 64 * 2**20
    peak = peak_memory(lambda: torch.zeros(size, dtype=torch.uint8), CPU)
    assert peak is None or 0.95 * size < peak < 1.5 * size


def test_floor_and_summary():
    assert Ceilings(1e9, 1e6).floor(1e9, 1e6) == 2 and Ceilings(1e9, 1e6).floor(1, 3e6) == 3
    results = [dict(runs={n: dict(ratio=r) for n, r in runs.items()}) for runs in (
        {'ours': 1, 'dense a': 2, 'dense b': 3, 'other': 1}, {'ours': 1, 'dense a': 8,
                                                           'dense b': 2, 'other': 4})]
    found = benchmark.summary(results)
    assert found['best dense'] == dict(mean=pytest.approx(2), least=2)
    assert found['other'] == dict(mean=pytest.approx(2), least=1) and 'ours' not in found


@pytest.mark.slow
@pytest.mark.parametrize('work, names', [
    (['mixer'], {'ours', 'dense e4, convolutions', 'dense e4, channels last', 'dense e4, tokens',
                 'narrow e2, tokens', "authors'", 'batched matmul'}),
    (['backbone', '--training'], {'ours', 'ours, plain', 'dense PPAA', 'dense PPAA, plain',
                                  'narrow PPAA', 'PoolFormer'}),
    (['configs/upernet_scheme_s_demo.py', '--training'], {'ours', 'ours, plain', 'dense PPAA'})])
def test_command(work, names, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    benchmark.main([*work, '--batch', '2', '--size', '64', '--rounds', '2', '--json',
          str(tmp_path / 'a' / 'times.json'), '--out', str(tmp_path / 'b' / 'times.png')])
    out = capsys.readouterr().out
    found = json.loads((tmp_path / 'a' / 'times.json').read_text())
    assert len(found['results']) == (4 if work == ['mixer'] else 1)
    for result in found['results']:
        assert set(result['runs']) == names and result['name'] in out
        assert result['runs']['ours']['ratio'] == 1
        assert all(r['seconds'] >= r['fastest'] > 0 for r in result['runs'].values())
    assert 'threads' in out and (tmp_path / 'b' / 'times.png').stat().st_size > 5000


@pytest.mark.slow
def test_readme_command():
    command, = readme_commands('benchmark')
    assert 'PoolFormer' in run(sys.executable, *command[1:], '--rounds', '2')


def test_wrong_arguments_are_one_line():
    tool = [sys.executable, 'tools/analysis_tools/benchmark.py']
    assert '--rounds: expected at least 2' in run(*tool, 'mixer', '--rounds', '1', fails=True)
    out = run(*tool, 'nothing.py', fails=True)
    assert 'expected mixer, backbone or the path of a config' in out and 'Traceback' not in out
