"""The script that checks and measures a GPU, walked through on the CPU."""
import json

import pytest

from tests.commands import load_script

ALL = 15


@pytest.fixture(scope='module')
def gpu():
    return load_script('benchmarks/gpu.py')


@pytest.mark.slow
def test_a_dry_run_walks_through_every_part(gpu, tmp_path, capsys):
    assert gpu.main(['--dry-run', '--out', str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert all(f'[{number}/{ALL}]' in out for number in range(1, ALL + 1))
    found = json.loads((tmp_path / 'results.json').read_text())
    assert found['verdicts'] and found['times'] and 'left out' not in str(found['verdicts'])
    for text in (found['title'], (tmp_path / 'table.md').read_text()):
        assert text.startswith('Dry run')
    assert (tmp_path / 'times.png').stat().st_size > 10000


@pytest.mark.slow
def test_a_part_that_breaks_or_does_not_hold_fails(gpu, tmp_path, monkeypatch, capsys):
    def parts(plan, limits):
        def broken():
            raise RuntimeError('no such kernel')
            yield

        def wrong():
            yield gpu.Verdict('a check', False, 'off by 1')

        def right():
            yield gpu.Verdict('another', True, 'as it should')
        return [gpu.Part('broken', broken, 5), gpu.Part('right', right, 5),
                gpu.Part('wrong', wrong, 5)]
    monkeypatch.setattr(gpu, 'parts_of', parts)
    assert gpu.main(['--dry-run', '--out', str(tmp_path), '--parts', 'right']) == 0
    assert gpu.main(['--dry-run', '--out', str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert 'FAILS broken: RuntimeError: no such kernel' in out and 'FAILS a check' in out
    assert '2 of 3 checks failed' in out


def test_kernels_that_compute_something_else_do_not_pass(gpu, monkeypatch):
    right = gpu.block_diagonal_mlp
    plan = gpu.Plan(gpu.torch.device('cpu'), 'chunked', True)
    assert all(verdict.held for verdict in gpu.check_parity(plan))
    monkeypatch.setattr(gpu, 'block_diagonal_mlp', lambda *a, **k: 1.001 * right(*a, **k))
    assert not any(verdict.held for verdict in gpu.check_parity(plan))


def test_without_a_gpu_one_line_says_so(gpu, tmp_path, capsys):
    if gpu.torch.cuda.is_available():
        pytest.skip('there is a GPU')
    with pytest.raises(SystemExit) as stopped:
        gpu.main(['--out', str(tmp_path)])
    assert stopped.value.code == 2 and 'no GPU' in capsys.readouterr().err
