"""A sweep over small configs: what it keeps, that a kill changes nothing, and what it refuses."""
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from mmscheme.analysis.complexity import count_config
from mmscheme.apis.config import load_config
from tests.commands import load_script
from tests.utils import REPOSITORY

sweep = load_script('studies/sweep.py')
execute, main = sweep.execute, sweep.main
plan_runs, read_results = sweep.plan_runs, sweep.read_results

BASE = f"""
_base_ = '{REPOSITORY}/configs/cls_scheme_s_demo.py'
arch = dict(_delete_=True, depths=(1, 1, 1, 1), embed_dims=(8, 16, 32, 32))
model = dict(backbone=dict(arch=arch), head=dict(in_channels=32))
train_dataloader = dict(batch_size=32, num_workers=0)
test_dataloader = dict(num_workers=0)
val_dataloader = None
val_cfg = None
val_evaluator = None
train_cfg = dict(max_epochs=4, val_interval=4)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(save_best=None))
study = dict(seeds=(0, 1))
"""
CONFIGS = dict(
    mixed="study = dict(publish=True, tests=dict(\n"
          "    dropped={}, kept={'model.backbone.keep_cca': True}))",
    dense='model = dict(backbone=dict(groups=(1, 1), expansion=4, cca=False))',
    goes_on="train_cfg = dict(max_epochs=1)\nstudy = dict(after='mixed', seeds=(1, ))",
    backbone_of="train_cfg = dict(max_epochs=1)\n"
    "study = dict(after='goes_on', part='backbone', seeds=(1, ))")


def write_study(folder, **configs):
    (folder / 'configs').mkdir(parents=True)
    (folder / '_base.py').write_text(BASE)
    for name, text in configs.items():
        (folder / 'configs' / f'{name}.py').write_text(f"_base_ = '../_base.py'\n{text}\n")
    return folder


@pytest.fixture(scope='module')
def study(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp('studies') / 'small', **CONFIGS)


@pytest.fixture(scope='module')
def results(study, scenes):
    """Of a sweep that nobody interrupts."""
    main([str(study), '--data-root', str(scenes), '--work-dir', str(study / 'w'), '--threads', '1'])
    return read_results(study / 'results.jsonl')


def weights(folder, cell, seed):
    path, = (folder / 'small' / cell / f'seed_{seed}').glob('epoch_[14].pth')
    return torch.load(path, weights_only=True)['state_dict']


@pytest.mark.slow
def test_what_a_sweep_keeps(results, study):
    # All configs with the first seed; what needs another comes after it.
    assert [(r['config'], r['seed']) for r in results] == [
        ('dense', 0), ('mixed', 0), ('dense', 1), ('mixed', 1), ('goes_on', 1), ('backbone_of', 1)]
    for r in results:
        cost = count_config(load_config(study / 'configs' / f'{r["config"]}.py')).parts['total']
        assert (r['params'], r['macs']) == cost
        assert r['machine'] and r['torch'] == torch.__version__ and r['threads'] == 1
        folder = study / 'w' / 'small' / r['config'] / f'seed_{r["seed"]}'
        assert len(list(folder.glob('small_mixed_seed*-*.pth'))) == (r['config'] == 'mixed')
        assert r['digest'] and r['commit'] and (folder / 'trained').exists()
        # One log of training, and one of each test in a folder of its own.
        assert len(list(folder.glob('2*/*.log'))) == 1
        assert {p.name for p in (folder / 'tests').iterdir()} == set(r['metrics'])
        assert r['seconds'] > 0 and not r['resumed'] and r['started'].endswith('Z')
    by_name = {(r['config'], r['seed']): r for r in results}
    assert by_name['dense', 0]['curve'] is None and list(by_name['dense', 0]['metrics']) == ['test']
    mixed = by_name['mixed', 0]
    # The schedule has ended: what is dropped is nothing.
    assert mixed['metrics']['dropped'] == mixed['metrics']['kept']
    assert 0 <= mixed['metrics']['dropped']['accuracy/top1'] <= 100
    curve = mixed['curve']
    assert len(curve['weights']) == 4 and curve['iterations'] == sorted(curve['iterations'])
    for values in curve['weights'].values():
        assert values[0] == pytest.approx(0.5, abs=0.01) and values[-1] == 0
        assert len(values) == len(curve['iterations'])


@pytest.mark.slow
def test_seeds_differ_and_a_run_starts_from_another(results, study):
    one, two = (weights(study / 'w', 'mixed', seed) for seed in (0, 1))
    assert not torch.equal(one['head.fc.weight'], two['head.fc.weight'])
    log = (study / 'w' / 'small' / 'goes_on' / 'seed_1' / 'output.log').read_text()
    source = study / 'w' / 'small' / 'mixed' / 'seed_1' / 'epoch_4.pth'
    assert f'Load checkpoint from {source}' in log
    log = (study / 'w' / 'small' / 'backbone_of' / 'seed_1' / 'output.log').read_text()
    assert 'Load checkpoint' not in log.split('Epoch(train)')[0]
    source = study / 'w' / 'small' / 'goes_on' / 'seed_1' / 'epoch_1.pth'
    assert str(source) in log.split('Epoch(train)')[0]


@pytest.mark.slow
def test_a_killed_sweep_goes_on_to_the_same_bits(results, study, scenes):
    """All its processes at once, in the middle of the second of its runs."""
    work_dir, path = study / 'killed', study / 'killed.jsonl'
    command = ['studies/sweep.py', str(study), '--cells', 'dense', 'mixed', '--seeds',
               '0', '--data-root', str(scenes), '--work-dir', str(work_dir), '--threads', '1',
               '--results', str(path)]
    process = subprocess.Popen([sys.executable, *command], cwd=REPOSITORY, start_new_session=True,
                               stdout=subprocess.DEVNULL)
    log = work_dir / 'small' / 'mixed' / 'seed_0' / 'output.log'
    deadline = time.monotonic() + 120
    while not (log.exists() and 'Saving checkpoint at 2 epochs' in log.read_text()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert [r['config'] for r in read_results(path)] == ['dense']
    with open(path, 'a') as f:
        f.write('{"config": "mix')  # a line that was being written
    main(command[1:])
    again = read_results(path)
    assert [(r['config'], r['resumed']) for r in again] == [('dense', False), ('mixed', True)]
    assert [r['digest'] for r in again] == [
        next(r['digest'] for r in results if r['config'] == name) for name in ('dense', 'mixed')]
    for new in again:
        old = next(r for r in results if (r['config'], r['seed']) == (new['config'], 0))
        assert new['metrics'] == old['metrics'] and new['curve'] == old['curve']
        expected = weights(study / 'w', new['config'], 0)
        for key, value in weights(work_dir, new['config'], 0).items():
            assert torch.equal(value, expected[key]), key


@pytest.mark.slow
def test_a_failed_run_is_named_and_the_others_are_done(scenes, tmp_path, capsys):
    study = write_study(tmp_path / 'small', a='train_cfg = dict(max_epochs=1)',
                        b="model = dict(backbone=dict(groups=(3, 3)))",
                        c="study = dict(after='b')", d="study = dict(after='c')")
    with pytest.raises(SystemExit) as stop:
        main([str(study), '--seeds', '0', '--data-root', str(scenes), '--work-dir',
              str(tmp_path / 'w'), '--threads', '1', '--jobs', '2'])
    printed = capsys.readouterr()
    assert stop.value.code == 1 and printed.err == 'error: 3 runs failed\n'
    assert 'small/b seed 0: failed with status 2' in printed.out
    assert 'does not divide into groups=3' in printed.out
    for cell in 'cd':
        assert f'small/{cell} seed 0: not started, what it starts from failed' in printed.out
    assert [r['config'] for r in read_results(study / 'results.jsonl')] == ['a']
    assert not (tmp_path / 'w' / 'small' / 'b' / 'seed_0' / 'last_checkpoint').exists()


@pytest.mark.parametrize('text, message', [
    ('study = dict(seed=1)', r"a.py: study has no ['seed'], expected some of ['seeds', 'after',"),
    ("study = dict(after='none')", 'study.after: no config of that name: none'),
    ("study = dict(part='neck')", "study.part: expected 'model' or 'backbone', found 'neck'"),
    ("study = dict(after='a')", 'study.after goes round in a circle'),
    ('model = 1 / 0', 'config cannot be read'),
])
def test_bad_configs(text, message, tmp_path, capsys):
    stopped([str(write_study(tmp_path / 'small', a=text))], message, capsys)


def stopped(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    line, = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and line.startswith('error: ') and message in line


@pytest.fixture
def stubbed(monkeypatch):
    """Runs that end at once: who was there, and with which options."""
    def execute(run, folder, options=None, data_root=None):
        time.sleep(0.5)
        return dict(config=run.cell, seed=run.seed, digest=sweep._digest(run, options),
                    metrics=dict(test=dict(top1=os.getpid())))

    monkeypatch.setattr(sweep, 'execute', execute)


def test_two_sweeps_do_a_run_once(study, tmp_path, stubbed):
    path = tmp_path / 'r.jsonl'
    runs = plan_runs(study, ['dense', 'mixed'], [0])
    others = [multiprocessing.get_context('fork').Process(
        target=sweep.run_sweep, args=(order, path, tmp_path / 'w', 2)) for order in (runs, runs)]
    for process in others:
        process.start()
    for process in others:
        process.join()
        assert process.exitcode == 0
    assert sorted(r['config'] for r in read_results(path)) == ['dense', 'mixed']


def test_results_of_other_options_are_refused(study, tmp_path, stubbed, capsys):
    path = tmp_path / 'r.jsonl'
    command = [str(study), '--cells', 'dense', '--seeds', '0', '--results', str(path),
               '--work-dir', str(tmp_path / 'w'), '--cfg-options', 'train_cfg.max_epochs=1']
    main(command)
    main(command)
    assert '1 runs, 1 of them in' in capsys.readouterr().out
    stopped([*command, 'optim_wrapper.optimizer.lr=5.0'],
            'has a result of small/dense seed 0 with another config or other options', capsys)
    assert len(read_results(path)) == 1


@pytest.mark.slow
def test_a_work_folder_of_other_options_is_refused(study, scenes, tmp_path, results):
    run, = plan_runs(study, ['dense'], [0])
    with pytest.raises(ValueError, match='seed_0 has a run of another config or other options'):
        execute(run, study / 'w', {'train_cfg.max_epochs': 5}, str(scenes))


def test_a_run_waits_for_trained_weights(study, scenes, tmp_path):
    run, = plan_runs(study, ['goes_on'], [1])
    folder = tmp_path / 'w' / 'small' / 'mixed' / 'seed_1'
    folder.mkdir(parents=True)
    (folder / 'epoch_1.pth').touch()  # of a training that has not ended
    with pytest.raises(FileNotFoundError, match=f'no trained model in {folder}'):
        execute(run, tmp_path / 'w', data_root=str(scenes))


def test_results_are_added_whole(tmp_path):
    path = tmp_path / 'r.jsonl'
    a, b, c = (dict(config=name, seed=0, metrics={}) for name in 'abc')
    path.write_text(json.dumps(a))  # an editor took the end of the line
    sweep._append(path, b)
    assert read_results(path) == [a, b]
    with open(path, 'a') as f:
        f.write('{"config": "ä')  # a kill in the middle of a line
    sweep._append(path, c)
    assert read_results(path) == [a, b, c]


def test_bad_arguments(study, tmp_path, capsys):
    stopped([str(tmp_path)], f'no configs of a study, configs/*.py, in {tmp_path}', capsys)
    stopped([str(study), '--cells', 'x'], "has no config 'x'; it has ['backbone_of',", capsys)
    stopped([str(study), '--jobs', '0'], '--jobs: expected at least 1, found 0', capsys)
    stopped([str(study), '--cfg-options', 'a=1'], 'it needs --results', capsys)
    bad = tmp_path / 'r.jsonl'
    bad.write_text('{"config": "a"}\n')
    stopped([str(study), '--results', str(bad)], f'{bad}, line 1: expected config, seed', capsys)
    bad.write_text('nonsense\n{}\n')
    stopped([str(study), '--results', str(bad)], f'{bad}, line 1: expected a JSON object', capsys)


def test_the_plan_of_the_studies():
    for folder in (REPOSITORY / 'studies').iterdir():
        if (folder / 'configs').is_dir() and folder.name != 'weights':  # one run of each
            runs = plan_runs(folder)
            assert len({(r.cell, r.seed) for r in runs}) == len(runs) >= 6
            seeds = {len({r.seed for r in runs if r.cell == run.cell}) for run in runs}
            assert len(seeds) == 1 and seeds <= {2, 3}


def test_a_study_of_one_config_goes_on_from_a_chain_in_another(tmp_path):
    write_study(tmp_path / 'first', a='', b="study = dict(after='a')")
    (tmp_path / 'last' / 'configs').mkdir(parents=True)
    (tmp_path / 'last' / 'configs' / 'c.py').write_text(
        f"{BASE}study = dict(after='first/b', seeds=(0, 1))\n")
    run, _ = plan_runs(tmp_path / 'last')
    assert (run.cell, run.after[1]) == ('c', 'b')
