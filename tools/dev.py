#!/usr/bin/env python3
"""Set up the environment of a clone and run a job in it: python3 tools/dev.py JOB.

Needs Python 3.10 or newer with venv, and no compiler. The first call creates the environment
.venv and installs the pinned releases into it, with mmscheme's own operators for mmcv; later
calls start the job at once. With --with-mmcv, mmcv is compiled instead, which needs a C++
compiler and takes about ten minutes on two cores; the wheel is kept for other clones.
"""
import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Dict, Iterator, List, NoReturn, Optional, Tuple

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / 'requirements'
# The releases that the tests ran with; weights-only loading as it is used here came with 2.6.
TORCHES = (2, 6), (2, 14)


def fail(message: str) -> NoReturn:
    """End with one line."""
    print(f'error: {message}', file=sys.stderr)
    sys.exit(2)


def say(message: str) -> None:
    """Print a line, at once also when the output is a file."""
    print(f'[set-up] {message}', flush=True)


def read_requirements(name: str) -> List[str]:
    """Return the lines of a requirements file without comments."""
    lines = (REQUIREMENTS / f'{name}.txt').read_text().splitlines()
    return [line.split('#')[0].strip() for line in lines if line.split('#')[0].strip()]


def requirement_of(requirements: List[str], suffix: str) -> str:
    """Return the one whose distribution name is ``suffix`` or ends with ``-suffix``."""
    return next(r for r in requirements if re.split('[=<>]', r)[0].split('-')[-1] == suffix)


def find_compiler() -> Optional[str]:
    """Return the C++ compiler, or None."""
    return shutil.which(os.environ.get('CXX', 'c++')) or shutil.which('g++')


def check_compiler() -> None:
    """Fail if something is missing that building mmcv needs beyond Python."""
    if not find_compiler():
        fail('a C++ compiler is needed to build mmcv, found neither c++ nor g++ '
             '(Debian, Ubuntu: apt install g++)')
    if not Path(sysconfig.get_paths()['include'], 'Python.h').exists():
        fail('the headers of Python are needed to build mmcv, found no Python.h '
             '(Debian, Ubuntu: apt install python3-dev)')


def make_venv(folder: Path, stack: str) -> Path:
    """Return the environment's interpreter; make it anew unless one for this stack works."""
    python, marker = folder / 'bin' / 'python', folder / 'mmscheme-stack'
    wanted = f'{stack} {sys.version_info[0]}.{sys.version_info[1]}'
    # One environment never holds both stacks: they install the same packages.
    if marker.exists() and marker.read_text() == wanted and ask(
            python, 'import pip, sys; print("%d.%d" % sys.version_info[:2])') == wanted.split()[1]:
        return python
    with step(f'environment {folder}'):
        result = subprocess.run([sys.executable, '-m', 'venv', '--clear', str(folder)],
                                capture_output=True, text=True)
    if result.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        fail('Python could not make an environment (Debian, Ubuntu: apt install python3-venv): '
             + ' '.join((result.stdout + result.stderr).split())[-300:])
    marker.write_text(wanted)
    return python


def ask(python: Path, code: str) -> str:
    """Return what a line of Python prints in the environment; nothing when it fails."""
    try:
        result = subprocess.run([str(python), '-c', code], capture_output=True, text=True)
    except OSError:
        return ''
    return result.stdout.strip() if result.returncode == 0 else ''


@contextmanager
def step(title: str) -> Iterator[List[str]]:
    """Print what is done, and afterwards how long it took; notes go into the list."""
    notes: List[str] = []
    say(title)
    start = time.monotonic()
    yield notes
    took = f'{time.monotonic() - start:.0f} s'
    say(f'{title}: {took}' + (f' ({", ".join(notes)})' if notes else ''))


def pip(python: Path, *arguments: str) -> List[str]:
    """Run pip with its own progress; return what downloading and installing took.

    An error ends the set-up.
    """
    with tempfile.NamedTemporaryFile('r', suffix='.log') as log:
        start = datetime.now()
        command = [str(python), '-m', 'pip', '--disable-pip-version-check', '--log', log.name]
        if subprocess.run([*command, *arguments]).returncode:
            fail(f'pip {" ".join(arguments)} failed; see above')
        end = datetime.now()
        found = re.search(r'^(\S+) Installing collected packages', log.read(), re.M)
    if not found:
        return []
    between = datetime.strptime(found[1], '%Y-%m-%dT%H:%M:%S,%f')
    return [f'downloading {(between - start).total_seconds():.0f} s',
            f'installing {(end - between).total_seconds():.0f} s']


def remove_packages(python: Path, *names: str) -> None:
    """Uninstall those packages of these names that are there."""
    there = ask(python, f'from importlib.metadata import distributions; '
                        f'print(*sorted({set(names)} & '
                        '{(d.metadata["Name"] or "").lower() for d in distributions()}))')
    if there:
        say(f'removing {there}, which has the same files')
        pip(python, 'uninstall', '-y', *there.split())


def has_compiled_mmcv(python: Path) -> bool:
    """Return True if mmcv has compiled operators that can be imported with this torch."""
    return ask(python, 'import importlib, importlib.machinery, torch; '
                       'm = importlib.import_module("mmcv._ext"); print(m.__file__.endswith('
                       'tuple(importlib.machinery.EXTENSION_SUFFIXES)))').endswith('True')


def probe_torch(python: Path) -> Tuple[str, str, bool]:
    """Return the versions of torch and its CUDA, and True if it can use a GPU here."""
    answer = ask(python, 'import torch, json; print(json.dumps([torch.__version__, '
                         'torch.version.cuda or "", torch.cuda.is_available()]))')
    version, cuda, gpu = json.loads(answer) if answer else ('', '', False)
    return version, cuda, gpu


def report_hardware(cuda: str, gpu: bool) -> None:
    """Say what will be slower here than it could be."""
    if not gpu and shutil.which('nvidia-smi'):
        say(f'a GPU is here but torch (CUDA {cuda or "none"}) cannot use it: is its driver '
            'too old? Everything runs on the CPU; docs/get_started.md, "Your own torch", helps')
    elif not gpu:
        say('no GPU found: everything runs on the CPU')
    if not gpu and not find_compiler():
        say("no C++ compiler found: the channel mixers run on torch's operators, more slowly "
            '(Debian, Ubuntu: apt install g++)')


def choose_cuda(cuda: str, gpu: bool) -> Optional[Path]:
    """Return the CUDA toolkit to build mmcv's GPU operators with, or None; say why not."""
    if not gpu:
        return None
    nvcc = shutil.which('nvcc', path=os.pathsep.join(
        [*(str(Path(os.environ[k], 'bin')) for k in ('CUDA_HOME', ) if k in os.environ),
         os.environ.get('PATH', ''), '/usr/local/cuda/bin']))
    missing = f'mmcv is built without its GPU operators (segmentation needs none, Mask R-CNN ' \
              f'does; without --with-mmcv it has some): torch wants the compiler of CUDA {cuda}, ' \
              'found '
    if not nvcc:
        say(missing + 'no nvcc')
        return None
    output = subprocess.run([nvcc, '--version'], capture_output=True, text=True).stdout
    match = re.search(r'release (\d+)\.(\d+)', output)
    if not match or match.group(1) != cuda.split('.')[0]:
        say(missing + f'{nvcc} of CUDA {match.group(0)[8:] if match else "unknown"}')
        return None
    return Path(os.path.realpath(nvcc)).parent.parent


def build_mmcv(python: Path, requirement: str, toolkit: Optional[Path], torch: str,
               cuda: str) -> Path:
    """Return a wheel of mmcv for this torch, from the cache or built."""
    cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'mmscheme'
    tag = ask(python, 'import sys; print("cp%d%d" % sys.version_info[:2])')
    gpu = ask(python, 'import torch; print("sm%d%d" % torch.cuda.get_device_capability())')
    target = f'cuda{cuda}-{gpu}' if toolkit else 'cpu'
    folder = (cache / 'wheels' / f'torch{torch}-{tag}-{target}-{platform.machine()}' /
              requirement.replace('==', '-'))
    found = sorted(folder.glob('*.whl'))
    if found:
        say(f'mmcv was built before: {found[0]}')
        return found[0]
    check_compiler()
    pip(python, 'install', *read_requirements('build'))
    jobs = os.environ.get('MAX_JOBS') or str(len(os.sched_getaffinity(0)))
    env = dict(os.environ, MMCV_WITH_OPS='1', MAX_JOBS=jobs)
    if toolkit:
        env.update(FORCE_CUDA='1', CUDA_HOME=str(toolkit))
    else:
        env.update(FORCE_CUDA='0', CUDA_VISIBLE_DEVICES='')
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix='build-', dir=folder.parent))
    except OSError as e:
        fail(f'the built mmcv cannot be kept: {e} (XDG_CACHE_HOME names another folder)')
    log = part / 'build.log'
    say(f'building {requirement} for torch {torch} ({target}) with {jobs} processes, about 10 '
        f'minutes with 2; log: {log}')
    # pip's own cache does not know that a wheel belongs to one torch.
    command = [str(python), '-m', 'pip', 'wheel', '-v', '--no-cache-dir', '--no-deps',
               '--no-build-isolation', '-w', str(part), requirement]
    if run_with_progress(command, env, log):
        lines = log.read_text(errors='replace').splitlines()
        print(''.join(f'  {line}\n' for line in lines[-15:]), file=sys.stderr)
        if toolkit:
            say(f'the GPU operators of mmcv could not be built (log: {log}); without them '
                'segmentation works on the GPU, Mask R-CNN does not')
            return build_mmcv(python, requirement, None, torch, cuda)
        fail(f'mmcv could not be built; the whole log: {log}')
    try:
        part.rename(folder)
    except OSError:  # another set-up was faster; its wheel is as good
        shutil.rmtree(part)
    return next(folder.glob('*.whl'))


def run_with_progress(command: List[str], env: Dict[str, str], log: Path) -> int:
    """Run a build; turn ninja's counts in its output into progress and time left."""
    start, last = time.monotonic(), -1.
    with open(log, 'w') as file, subprocess.Popen(
            command, env=env, text=True, errors='replace', stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            match = re.match(r'\s*\[(\d+)/(\d+)\]', line)
            now = time.monotonic()
            if match and now - last > (1 if sys.stdout.isatty() else 20):
                last = now
                done, total = int(match.group(1)), int(match.group(2))
                left = (now - start) / done * (total - done)
                text = (f'[set-up] mmcv: {done}/{total} files, {now - start:.0f} s, '
                        f'about {left:.0f} s left')
                print(text, end='   \r' if sys.stdout.isatty() else '\n', flush=True)
    print('', flush=True)
    return process.returncode


def fingerprint(python: Path, stack: str) -> str:
    """Return what changes when anything does that the installed environment depends on."""
    digest = hashlib.sha256()
    for path in (*sorted(REQUIREMENTS.glob('*.txt')), ROOT / 'setup.py',
                 ROOT / 'mmscheme' / 'version.py', Path(__file__)):
        digest.update(path.read_bytes())
    here = ask(python, 'import sys; from importlib.metadata import version; '
                       'print(sys.version, sys.prefix, version("torch"))')
    tools = [shutil.which('nvcc'), shutil.which('nvidia-smi'), os.environ.get('CUDA_HOME')]
    digest.update(f'{stack} {ROOT} {here} {tools}'.encode())
    return digest.hexdigest()


def own_torch(python: Path, builds: bool) -> List[str]:
    """Return the torch and torchvision of an environment, as requirements that change nothing."""
    # The version that pip knows: __version__ may name a CUDA beside it.
    found = {name: ask(python, f'import {name}; from importlib.metadata import version; '
                               f'print(version("{name}"))')
             for name in ('torch', 'torchvision')}
    for name, version in found.items():
        if not version:
            fail(f'--in-place uses the {name} of {python}, found none that can be imported')
    release = tuple(int(n) for n in re.findall(r'\d+', found['torch'])[:2])
    oldest, newest = ('.'.join(map(str, t)) for t in TORCHES)
    # mmcv's build says C++17, torch 2.15 wants C++20.
    if release < TORCHES[0] or builds and release > TORCHES[1]:
        fail(f'torch from {oldest} to {newest} works here, found {found["torch"]}')
    if release > TORCHES[1]:
        say(f'torch {found["torch"]} is newer than {newest}, the newest that was tried')
    return [f'{name}=={version}' for name, version in found.items()]


def set_up(in_place: bool, stack: Optional[str], with_mmcv: bool) -> Path:
    """Install what is missing; return the interpreter to work with."""
    start = time.monotonic()
    if sys.version_info < (3, 10):  # noqa: UP036 - this runs before anything is installed
        fail(f'Python 3.10 or newer is needed, this is {platform.python_version()}; '
             'call this file with a newer one')
    # mmcv 2.1.0 itself does not build for Python 3.13.
    stack = stack or ('forks' if with_mmcv and sys.version_info >= (3, 13) else 'upstream')
    requirements = read_requirements(stack)
    mmcv = next(r for r in requirements if 'mmcv' in r)
    if with_mmcv or '-lite' not in mmcv:
        with_mmcv, mmcv = True, mmcv.replace('-lite', '')
    folder = ROOT / '.venv'
    python = Path(sys.executable) if in_place else make_venv(folder, stack)
    stamp = ROOT / '.in-place' if in_place else folder / 'mmscheme-set-up'
    done = stamp.read_text().split() if stamp.exists() else []
    if done[:1] == [fingerprint(python, stack)] and (not with_mmcv or done[1:] == ['compiled']):
        return python
    if in_place:
        torches = own_torch(python, with_mmcv)
        say(f'using {" and ".join(torches)} as they are')
    else:
        torches = [requirement_of(requirements, name) for name in ('torch', 'torchvision')]
        with step(' and '.join(torches)) as notes:
            notes += pip(python, 'install', *torches)
    torch, cuda, gpu = probe_torch(python)
    if not torch:
        fail(f'{torches[0]} was installed but cannot be imported by {python}')
    report_hardware(cuda, gpu)
    wanted = [mmcv]
    if with_mmcv:
        with step(f'{mmcv}, compiled'):
            wanted = [str(build_mmcv(python, mmcv, choose_cuda(cuda, gpu), torch, cuda))]
        remove_packages(python, 'mmcv-lite')
    elif has_compiled_mmcv(python):
        say('mmcv has compiled operators here, which stay')
        with_mmcv, wanted = True, []
    else:
        remove_packages(python, 'mmcv')
    rest = [r for r in requirements if 'mmcv' not in r and not r.startswith('torch')]
    with step(', '.join([mmcv] * bool(wanted) + rest)) as notes:
        notes += pip(python, 'install', *wanted, *torches, *rest, *read_requirements('build'),
                     *read_requirements('dev'))
    with step('mmscheme'):
        if wanted and with_mmcv:
            # pip leaves a wheel of the same version alone, whatever torch it was built for.
            pip(python, 'install', '--force-reinstall', '--no-deps', *wanted)
        pip(python, 'install', '--no-build-isolation', '--no-deps', '-e', str(ROOT))
        if not with_mmcv:
            tool = ROOT / 'tools' / 'misc' / 'install_mmcv_ops.py'
            if subprocess.run([str(python), str(tool)]).returncode:
                fail('the operators for mmcv could not be installed; see above')
    stamp.write_text(f'{fingerprint(python, stack)} {"compiled" if with_mmcv else "lite"}')
    say(f'done in {time.monotonic() - start:.0f} s')
    return python


def main() -> None:
    """Read the command line, set up and do the job."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--in-place', action='store_true',
                        help='create no environment; install into that of the Python that runs '
                        'this, and leave its torch and torchvision as they are')
    parser.add_argument('--stack', choices=['upstream', 'forks'],
                        help='releases of OpenMMLab, or of their maintained forks, which are '
                        'compiled (default: upstream, or forks with --with-mmcv from Python 3.13 '
                        'on)')
    parser.add_argument('--with-mmcv', action='store_true',
                        help='compile mmcv with all of its operators, instead of using those of '
                        'mmscheme; needs a C++ compiler, and nvcc for GPU operators')
    parser.add_argument('job', choices=['demo', 'test', 'lint', 'gpu', 'setup'],
                        help='demo, test and gpu pass further arguments on')
    args, rest = parser.parse_known_args()
    if rest and args.job not in ('demo', 'test', 'gpu'):
        parser.error(f'unknown arguments for {args.job}: {" ".join(rest)}')
    # A lent GPU is measured with what its machine has: setting up would take its time.
    bare = args.job == 'gpu' and ask(Path(sys.executable), 'import torch, triton; '
                                     'print(torch.cuda.is_available())') == 'True'
    python = sys.executable if bare else str(set_up(args.in_place, args.stack, args.with_mmcv))
    jobs = dict(
        demo=[[python, str(ROOT / 'tools' / 'demo.py'), *rest]],
        test=[[python, '-m', 'pytest', *rest]],
        lint=[[python, '-m', 'ruff', 'check', '.'], [python, '-m', 'mypy'],
              [python, str(ROOT / '.dev_scripts' / 'check_house.py')],
              [python, str(ROOT / '.dev_scripts' / 'config_table.py'), '--check'],
              [python, str(ROOT / '.dev_scripts' / 'check_pages.py')],
              [python, '-m', 'pip', '-q', '--disable-pip-version-check', 'install', '-r',
               str(REQUIREMENTS / 'docs.txt')],
              [python, '-m', 'mkdocs', 'build', '--strict', '--quiet']],
        gpu=[[python, str(ROOT / 'benchmarks' / 'gpu.py'), *rest]],
        setup=[])
    for command in jobs[args.job]:
        code = subprocess.run(command, cwd=ROOT).returncode
        if code:
            sys.exit(code)


if __name__ == '__main__':
    main()
