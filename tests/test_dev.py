"""The set-up tool, with stand-ins for pip, compilers and GPUs."""
import importlib.util
import re
import subprocess
import sys
from importlib.metadata import version

import pytest

from tests.utils import REPOSITORY


@pytest.fixture
def dev():
    spec = importlib.util.spec_from_file_location('dev', REPOSITORY / 'tools' / 'dev.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\n{text}\n')
    path.chmod(0o755)
    return path


def nvcc(folder, release):
    return executable(folder / 'bin' / 'nvcc',
                      f'echo "Cuda compilation tools, release {release}, V{release}.1"')


@pytest.mark.parametrize('found, cuda, gpu, expected, line', [
    ('13.0', '13.0', True, True, ''),
    ('13.2', '13.0', True, True, ''),
    ('12.4', '13.0', True, False, 'wants the compiler of CUDA 13.0, found .*nvcc of CUDA 12.4'),
    (None, '13.0', True, False, 'found no nvcc'),
    ('13.0', '13.0', False, False, 'no GPU found: everything runs on the CPU'),
])
def test_gpu_operators_are_built_when_the_compiler_fits(dev, tmp_path, monkeypatch, capsys, found,
                                                        cuda, gpu, expected, line):
    monkeypatch.setenv('PATH', str(tmp_path / 'nothing'))
    monkeypatch.setenv('CUDA_HOME', str(tmp_path / 'cuda'))
    which = dev.shutil.which
    monkeypatch.setattr(dev.shutil, 'which', lambda name, path=None: which(
        name, path=path and path.replace('/usr/local/cuda/bin', '')))
    if found:
        nvcc(tmp_path / 'cuda', found)
        monkeypatch.setenv('PATH', '/bin:/usr/bin')
    toolkit = dev.choose_cuda(cuda, gpu)
    assert toolkit == (tmp_path / 'cuda' if expected else None)
    assert re.search(line, capsys.readouterr().out)


def test_a_gpu_that_torch_cannot_use_is_said(dev, tmp_path, monkeypatch, capsys):
    executable(tmp_path / 'nvidia-smi', 'true')
    monkeypatch.setenv('PATH', str(tmp_path))
    assert dev.choose_cuda('13.0', False) is None
    assert 'torch (CUDA 13.0) cannot use it' in capsys.readouterr().out


def fake_builder(dev, tmp_path, monkeypatch, fails=()):
    """build_mmcv with a pip that writes a wheel; returns the calls it got."""
    calls = []

    def build(command, env, log):
        calls.append((command, env))
        log.write_text('cc1plus: error\n')
        if env['FORCE_CUDA'] in fails:
            return 1
        (log.parent / 'mmcv-2.1.0-x.whl').write_text('')
        return 0

    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setattr(dev, 'pip', lambda *a: None)
    monkeypatch.setattr(dev, 'check_compiler', lambda: None)
    monkeypatch.setattr(dev, 'ask', lambda python, code: 'sm90' if 'capability' in code
                        else 'cp311')
    monkeypatch.setattr(dev, 'run_with_progress', build)
    return calls


def test_a_built_wheel_belongs_to_its_torch_python_and_cuda(dev, tmp_path, monkeypatch):
    calls = fake_builder(dev, tmp_path, monkeypatch)
    keys = [('2.12.1+cu130', None, '13.0'), ('2.10.0', None, '13.0'),
            ('2.12.1+cu130', tmp_path, '13.0'), ('2.12.1+cu130', tmp_path, '12.8')]
    wheels = [dev.build_mmcv('py', 'mmcv==2.1.0', toolkit, torch, cuda)
              for torch, toolkit, cuda in keys]
    assert len(set(wheels)) == len(calls) == 4 and all(w.exists() for w in wheels)
    assert [env['FORCE_CUDA'] for _, env in calls] == ['0', '0', '1', '1']
    assert calls[2][1]['CUDA_HOME'] == str(tmp_path)
    assert all('--no-cache-dir' in command for command, _ in calls)
    for (torch, toolkit, cuda), wheel in zip(keys, wheels):
        assert dev.build_mmcv('py', 'mmcv==2.1.0', toolkit, torch, cuda) == wheel
    assert len(calls) == 4
    assert not list(tmp_path.glob('**/build-*'))


def test_a_failed_gpu_build_falls_back_and_a_failed_build_ends(dev, tmp_path, monkeypatch, capsys):
    calls = fake_builder(dev, tmp_path, monkeypatch, fails=('1', ))
    assert dev.build_mmcv('py', 'mmcv==2.1.0', tmp_path, '2.12.1', '13.0').exists()
    assert [env['FORCE_CUDA'] for _, env in calls] == ['1', '0']
    assert 'GPU operators of mmcv could not be built' in capsys.readouterr().out
    fake_builder(dev, tmp_path / 'other', monkeypatch, fails=('0', ))
    with pytest.raises(SystemExit):
        dev.build_mmcv('py', 'mmcv==2.1.0', None, '2.12.1', '')
    assert 'cc1plus: error' in capsys.readouterr().err
    assert not list((tmp_path / 'other').glob('**/*.whl'))


def test_progress_comes_from_the_counts_of_ninja(dev, tmp_path, capsys):
    script = 'for i in 1 2 3; do echo "  [$i/3] c++ file$i"; done; echo done; exit 5'
    assert dev.run_with_progress(['sh', '-c', script], {}, tmp_path / 'log') == 5
    assert 'mmcv: 1/3 files, 0 s, about 0 s left' in capsys.readouterr().out
    assert (tmp_path / 'log').read_text().count('\n') == 4


@pytest.mark.slow
def test_environment_is_made_once_and_again_when_it_is_broken_or_of_another_stack(
        dev, tmp_path, monkeypatch):
    made, run = [], subprocess.run
    monkeypatch.setattr(dev, 'say', made.append)
    folder = tmp_path / 'env'
    for stack, expected in (('upstream', 1), ('upstream', 1), ('forks', 2)):
        python = dev.make_venv(folder, stack)
        assert len(made) == expected and run([python, '-m', 'pip', '--version']).returncode == 0
    python.unlink()
    assert dev.make_venv(folder, 'forks').exists() and len(made) == 3


def test_stamp_changes_with_what_it_depends_on(dev, monkeypatch):
    answers = {}
    monkeypatch.setattr(dev, 'ask', lambda python, code: answers.get('torch', '2.12.1'))
    first = dev.fingerprint('py', 'upstream')
    assert dev.fingerprint('py', 'upstream') == first != dev.fingerprint('py', 'forks')
    answers['torch'] = '2.10.0'
    assert dev.fingerprint('py', 'upstream') != first
    answers.clear()
    monkeypatch.setenv('CUDA_HOME', '/opt/cuda')
    assert dev.fingerprint('py', 'upstream') != first


def test_own_torch_is_checked(dev, monkeypatch, capsys):
    for torch, expected in (('2.5.1', None), ('2.15.0', None), ('', None),
                            ('2.8.0+cu126', ['torch==2.8.0+cu126', 'torchvision==0.23'])):
        monkeypatch.setattr(dev, 'ask', lambda python, code, torch=torch: '0.23'
                            if 'torchvision' in code else torch)
        if expected:
            assert dev.own_torch('py') == expected
        else:
            with pytest.raises(SystemExit):
                dev.own_torch('py')
    assert 'found 2.15.0' in capsys.readouterr().err


def test_own_torch_is_named_as_pip_knows_it(dev):
    """Which is without the CUDA that ``torch.__version__`` may name."""
    assert dev.own_torch(sys.executable) == [f'{name}=={version(name)}'
                                             for name in ('torch', 'torchvision')]


def test_requirements_name_one_torch_each(dev):
    for stack in ('upstream', 'forks'):
        lines = dev.read_requirements(stack)
        for name in ('torch', 'torchvision', 'mmcv', 'mmengine'):
            assert '==' in dev.requirement_of(lines, name)


def test_unknown_jobs_and_arguments_are_errors():
    for arguments in (['build'], ['lint', '--fix']):
        result = subprocess.run([sys.executable, 'tools/dev.py', *arguments], cwd=REPOSITORY,
                                capture_output=True, text=True)
        assert result.returncode == 2 and 'usage' in result.stderr
