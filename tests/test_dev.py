"""The set-up tool, with stand-ins for pip, compilers and GPUs."""
import importlib.machinery
import importlib.util
import re
import subprocess
import sys
from importlib.metadata import version

import pytest

from tests.test_mmcv_ext.conftest import INSTALLED
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
    ('13.0', '13.0', False, False, ''),
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


@pytest.mark.parametrize('gpu, tools, lines', [
    (True, (), ()),
    (False, ('c++', ), ('no GPU found', )),
    (False, (), ('no GPU found', r'no C\+\+ compiler found')),
    (False, ('nvidia-smi', 'g++'), (r'torch \(CUDA 13.0\) cannot use it', ))])
def test_what_is_slower_here_is_said(dev, tmp_path, monkeypatch, capsys, gpu, tools, lines):
    for name in tools:
        executable(tmp_path / name, 'true')
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.delenv('CXX', raising=False)
    dev.report_hardware('13.0', gpu)
    out = capsys.readouterr().out
    assert out.count('\n') == len(lines) and all(re.search(line, out) for line in lines)


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
        assert len(made) == 2 * expected and run([python, '-m', 'pip', '--version']).returncode == 0
    python.unlink()
    assert dev.make_venv(folder, 'forks').exists() and len(made) == 6


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


@pytest.mark.parametrize('torch, builds, expected', [
    ('2.5.1', False, None), ('', False, None), ('2.15.0', True, None),
    ('2.15.0', False, ['torch==2.15.0', 'torchvision==0.23']),
    ('2.8.0+cu126', True, ['torch==2.8.0+cu126', 'torchvision==0.23'])])
def test_own_torch_is_checked(dev, monkeypatch, capsys, torch, builds, expected):
    monkeypatch.setattr(dev, 'ask', lambda python, code: '0.23'
                        if 'torchvision' in code else torch)
    if expected:
        assert dev.own_torch('py', builds) == expected
    else:
        with pytest.raises(SystemExit):
            dev.own_torch('py', builds)
    captured = capsys.readouterr()
    assert ('newer than' in captured.out) == (torch == '2.15.0' and not builds)
    assert captured.err.count('\n') == (expected is None)


@pytest.mark.slow
def test_own_torch_is_named_as_pip_knows_it(dev):
    """Which is without the CUDA that ``torch.__version__`` may name."""
    assert dev.own_torch(sys.executable, False) == [f'{name}=={version(name)}'
                                                    for name in ('torch', 'torchvision')]


class FakeEnvironment:
    """pip, Python and the operators' tool of an environment; notes what is asked of them."""

    def __init__(self, dev, folder, monkeypatch, compiled=False, packages=''):
        self.installed, self.removed, self.built, self.operators = [], [], [], 0
        self.compiled, self.packages = compiled, packages
        monkeypatch.setattr(dev, 'ROOT', folder)
        (folder / '.venv').mkdir(exist_ok=True)
        monkeypatch.setattr(dev, 'make_venv', lambda folder, stack: folder / 'bin' / 'python')
        monkeypatch.setattr(dev, 'fingerprint', lambda python, stack: stack)
        monkeypatch.setattr(dev, 'probe_torch', lambda python: ('2.12.1', '13.0', True))
        monkeypatch.setattr(dev, 'choose_cuda', lambda cuda, gpu: None)
        monkeypatch.setattr(dev, 'build_mmcv', self.build)
        monkeypatch.setattr(dev, 'has_compiled_mmcv', lambda python: self.compiled)
        monkeypatch.setattr(dev, 'ask', lambda python, code: self.packages
                            if all(name in code for name in self.packages.split()) else '')
        monkeypatch.setattr(dev, 'pip', self.pip)
        monkeypatch.setattr(dev.subprocess, 'run', self.tool)

    def pip(self, python, command, *arguments):
        (self.removed if command == 'uninstall' else self.installed).append(arguments)
        return ['downloading 1 s', 'installing 2 s']

    def build(self, python, requirement, *rest):
        self.built.append(requirement)
        return 'mmcv.whl'

    def tool(self, command, **options):
        assert command[1].endswith('install_mmcv_ops.py')
        self.operators += 1
        return subprocess.CompletedProcess(command, 0)


def test_set_up_compiles_nothing_unless_it_is_asked_to(dev, tmp_path, monkeypatch, capsys):
    here = FakeEnvironment(dev, tmp_path, monkeypatch)
    dev.set_up(False, 'upstream', False)
    names = [name for call in here.installed for name in call]
    assert 'mmcv-lite==2.1.0' in names and not here.built and here.operators == 1
    out = capsys.readouterr().out
    assert re.search(r'torch==\S+ and torchvision==\S+: \d+ s \(downloading 1 s, installing 2 s\)',
                     out)
    assert re.search(r'done in \d+ s', out)
    # What is done is not done again.
    dev.set_up(False, 'upstream', False)
    assert here.operators == 1 and not capsys.readouterr().out


def test_set_up_with_mmcv_replaces_the_operators_and_stays(dev, tmp_path, monkeypatch):
    here = FakeEnvironment(dev, tmp_path, monkeypatch)
    dev.set_up(False, 'upstream', False)
    here.packages = 'mmcv-lite'
    dev.set_up(False, 'upstream', True)
    assert here.built == ['mmcv==2.1.0'] and here.removed == [('-y', 'mmcv-lite')]
    calls = len(here.installed)
    for with_mmcv in (True, False):
        dev.set_up(False, 'upstream', with_mmcv)
    assert len(here.installed) == calls and here.operators == 1


def test_set_up_leaves_compiled_mmcv_of_an_environment_unless_it_is_broken(dev, tmp_path,
                                                                          monkeypatch):
    monkeypatch.setattr(dev, 'own_torch', lambda python, builds: ['torch==2.9', 'torchvision==2'])
    here = FakeEnvironment(dev, tmp_path, monkeypatch, compiled=True, packages='mmcv')
    dev.set_up(True, 'upstream', False)
    assert not any('mmcv' in name for call in here.installed for name in call)
    assert not here.removed and not here.operators
    (tmp_path / '.in-place').unlink()
    here.compiled = False
    dev.set_up(True, 'upstream', False)
    assert here.removed == [('-y', 'mmcv')] and here.operators == 1


def test_forks_are_compiled(dev, tmp_path, monkeypatch):
    here = FakeEnvironment(dev, tmp_path, monkeypatch)
    dev.set_up(False, 'forks', False)
    assert [r.split('==')[0] for r in here.built] == ['onedl-mmcv'] and not here.operators


@pytest.mark.slow
def test_pip_says_how_long_it_downloaded_and_installed(dev, tmp_path):
    python = executable(tmp_path / 'python', """
while [ "$1" != --log ]; do shift; done
sleep 1; date +'%Y-%m-%dT%H:%M:%S,%3N Installing collected packages: x' >> "$2"; sleep 2""")
    notes = dev.pip(python, 'install', 'x')
    assert [re.sub(r'\d+', 'N', note) for note in notes] == ['downloading N s', 'installing N s']
    seconds = [int(re.search(r'\d+', note)[0]) for note in notes]
    assert seconds[0] >= 1 and seconds[1] >= 2


def test_removing_packages_names_those_that_are_there(dev, monkeypatch):
    calls = []
    monkeypatch.setattr(dev, 'pip', lambda python, *words: calls.append(words))
    dev.remove_packages(sys.executable, 'pytest', 'no-such-package')
    dev.remove_packages(sys.executable, 'no-such-package')
    assert calls == [('uninstall', '-y', 'pytest')]


@pytest.mark.slow
def test_compiled_mmcv_is_recognised(dev):
    suffixes = tuple(importlib.machinery.EXTENSION_SUFFIXES)
    assert dev.has_compiled_mmcv(sys.executable) == INSTALLED.__file__.endswith(suffixes)


def test_requirements_name_one_torch_each(dev):
    for stack in ('upstream', 'forks'):
        lines = dev.read_requirements(stack)
        for name in ('torch', 'torchvision', 'mmengine'):
            assert '==' in dev.requirement_of(lines, name)
        assert len([line for line in lines if 'mmcv' in line]) == 1


def test_the_workflow_runs_what_ci_runs():
    """But for the real data, which a clone does not have."""
    steps = [re.findall(r'python3 tools/dev.py .*', (REPOSITORY / path).read_text())
             for path in ('.ci/run', '.github/workflows/ci.yml')]
    assert steps[0] == steps[1] and len(steps[0]) == 3


def test_unknown_jobs_and_arguments_are_errors():
    for arguments in (['build'], ['lint', '--fix']):
        result = subprocess.run([sys.executable, 'tools/dev.py', *arguments], cwd=REPOSITORY,
                                capture_output=True, text=True)
        assert result.returncode == 2 and 'usage' in result.stderr
