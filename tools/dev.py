#!/usr/bin/env python3
"""Sets up all that mmscheme needs and does a job: python3 tools/dev.py demo | test | lint | setup.

Needs Python 3.10 or newer with venv, and a C++ compiler. The first call makes the
environment .venv, installs the pinned stack there and builds mmcv, which takes about
ten minutes on two cores; the built wheel is kept for other clones. Later calls start
the job at once.
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
from pathlib import Path
from typing import Dict, List, NoReturn, Optional, Tuple

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / 'requirements'


def fail(message: str) -> NoReturn:
    """Ends with one line."""
    print(f'error: {message}', file=sys.stderr)
    sys.exit(2)


def say(message: str) -> None:
    """One step, at once also when the output is a file."""
    print(f'[set-up] {message}', flush=True)


def read_requirements(name: str) -> List[str]:
    """The lines of a requirements file without comments."""
    lines = (REQUIREMENTS / f'{name}.txt').read_text().splitlines()
    return [line.split('#')[0].strip() for line in lines if line.split('#')[0].strip()]


def requirement_of(requirements: List[str], suffix: str) -> str:
    """The requirement whose distribution name is ``suffix`` or ends with ``-suffix``."""
    return next(r for r in requirements if re.split('[=<>]', r)[0].split('-')[-1] == suffix)


def check_compiler() -> None:
    """What building mmcv needs beyond Python."""
    if not (shutil.which(os.environ.get('CXX', 'c++')) or shutil.which('g++')):
        fail('a C++ compiler is needed to build mmcv, found neither c++ nor g++ '
             '(Debian, Ubuntu: apt install g++)')
    if not Path(sysconfig.get_paths()['include'], 'Python.h').exists():
        fail('the headers of Python are needed to build mmcv, found no Python.h '
             '(Debian, Ubuntu: apt install python3-dev)')


def make_venv(folder: Path, stack: str) -> Path:
    """The interpreter of the environment, made anew unless one for this stack works."""
    python, marker = folder / 'bin' / 'python', folder / 'mmscheme-stack'
    wanted = f'{stack} {sys.version_info[0]}.{sys.version_info[1]}'
    # One environment never holds both stacks: they install the same packages.
    if marker.exists() and marker.read_text() == wanted and ask(
            python, 'import pip, sys; print("%d.%d" % sys.version_info[:2])') == wanted.split()[1]:
        return python
    say(f'making the environment {folder}')
    result = subprocess.run([sys.executable, '-m', 'venv', '--clear', str(folder)],
                            capture_output=True, text=True)
    if result.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        fail('Python could not make an environment (Debian, Ubuntu: apt install python3-venv): '
             + ' '.join((result.stdout + result.stderr).split())[-300:])
    marker.write_text(wanted)
    return python


def ask(python: Path, code: str) -> str:
    """What a line of Python prints in the environment; empty when it fails."""
    try:
        result = subprocess.run([str(python), '-c', code], capture_output=True, text=True)
    except OSError:
        return ''
    return result.stdout.strip() if result.returncode == 0 else ''


def pip(python: Path, *arguments: str) -> None:
    """Runs pip with its own progress; an error ends the set-up."""
    command = [str(python), '-m', 'pip', '--disable-pip-version-check', *arguments]
    if subprocess.run(command).returncode:
        fail(f'pip {" ".join(arguments)} failed; see above')


def probe_torch(python: Path) -> Tuple[str, str, bool]:
    """Version of torch, its CUDA version and whether it can use a GPU here."""
    answer = ask(python, 'import torch, json; print(json.dumps([torch.__version__, '
                         'torch.version.cuda or "", torch.cuda.is_available()]))')
    version, cuda, gpu = json.loads(answer) if answer else ('', '', False)
    return version, cuda, gpu


def choose_cuda(cuda: str, gpu: bool) -> Optional[Path]:
    """The CUDA toolkit to build mmcv's GPU operators with, or None; says why not."""
    if not gpu:
        if shutil.which('nvidia-smi'):
            say(f'a GPU is here but torch (CUDA {cuda or "none"}) cannot use it: is its driver '
                'too old? Everything runs on the CPU; README, "Your own torch", helps')
        else:
            say('no GPU found: everything runs on the CPU')
        return None
    nvcc = shutil.which('nvcc', path=os.pathsep.join(
        [*(str(Path(os.environ[k], 'bin')) for k in ('CUDA_HOME', ) if k in os.environ),
         os.environ.get('PATH', ''), '/usr/local/cuda/bin']))
    missing = f'mmcv is built without its GPU operators (segmentation needs none, Mask R-CNN ' \
              f'does): torch wants the compiler of CUDA {cuda}, found '
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
    """A wheel of mmcv for this torch, from the cache or built."""
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
    """Runs a build; turns ninja's counts in its output into progress and time left."""
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
    """Changes when anything does that the installed environment depends on."""
    digest = hashlib.sha256()
    for path in (*sorted(REQUIREMENTS.glob('*.txt')), ROOT / 'setup.py',
                 ROOT / 'mmscheme' / 'version.py', Path(__file__)):
        digest.update(path.read_bytes())
    here = ask(python, 'import sys; from importlib.metadata import version; '
                       'print(sys.version, sys.prefix, version("torch"))')
    tools = [shutil.which('nvcc'), shutil.which('nvidia-smi'), os.environ.get('CUDA_HOME')]
    digest.update(f'{stack} {ROOT} {here} {tools}'.encode())
    return digest.hexdigest()


def own_torch(python: Path) -> List[str]:
    """The torch and torchvision of an environment, as requirements that change nothing."""
    # The version that pip knows: __version__ may name a CUDA beside it.
    found = {name: ask(python, f'import {name}; from importlib.metadata import version; '
                               f'print(version("{name}"))')
             for name in ('torch', 'torchvision')}
    for name, version in found.items():
        if not version:
            fail(f'--in-place uses the {name} of {python}, found none that can be imported')
    release = tuple(int(n) for n in re.findall(r'\d+', found['torch'])[:2])
    # weights-only loading as it is used here; mmcv's build says C++17.
    if not (2, 6) <= release < (2, 15):
        fail(f'torch from 2.6 to 2.14 works here, found {found["torch"]}')
    return [f'{name}=={version}' for name, version in found.items()]


def set_up(in_place: bool, stack: Optional[str]) -> Path:
    """Installs what is missing; returns the interpreter to work with."""
    if sys.version_info < (3, 10):  # noqa: UP036 - this runs before anything is installed
        fail(f'Python 3.10 or newer is needed, this is {platform.python_version()}; '
             'call this file with a newer one')
    stack = stack or ('upstream' if sys.version_info < (3, 13) else 'forks')
    folder = ROOT / '.venv'
    python = Path(sys.executable) if in_place else make_venv(folder, stack)
    stamp = ROOT / '.in-place' if in_place else folder / 'mmscheme-set-up'
    if stamp.exists() and stamp.read_text() == fingerprint(python, stack):
        return python
    requirements = read_requirements(stack)
    if in_place:
        torches = own_torch(python)
        say(f'using {" and ".join(torches)} as they are')
    else:
        torches = [requirement_of(requirements, name) for name in ('torch', 'torchvision')]
        say(f'installing {" and ".join(torches)} (1 of 3)')
        pip(python, 'install', *torches)
    torch, cuda, gpu = probe_torch(python)
    if not torch:
        fail(f'{torches[0]} was installed but cannot be imported by {python}')
    toolkit = choose_cuda(cuda, gpu)
    mmcv = requirement_of(requirements, 'mmcv')
    say(f'{mmcv} (2 of 3)')
    wheel = build_mmcv(python, mmcv, toolkit, torch, cuda)
    rest = [r for r in requirements if r != mmcv and not r.startswith('torch')]
    say(f'installing {", ".join(rest)} and mmscheme (3 of 3)')
    pip(python, 'install', str(wheel), *torches, *rest, *read_requirements('build'),
        *read_requirements('dev'))
    # pip leaves a wheel of the same version alone, whatever torch it was built for.
    pip(python, 'install', '--force-reinstall', '--no-deps', str(wheel))
    pip(python, 'install', '--no-build-isolation', '--no-deps', '-e', str(ROOT))
    stamp.write_text(fingerprint(python, stack))
    say('done')
    return python


def main() -> None:
    """Reads the command line, sets up and does the job."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--in-place', action='store_true',
                        help='no environment of its own: install into that of the Python that '
                        'runs this, leaving its torch and torchvision as they are')
    parser.add_argument('--stack', choices=['upstream', 'forks'],
                        help='releases of OpenMMLab, or their maintained forks (the default from '
                        'Python 3.13 on)')
    parser.add_argument('job', choices=['demo', 'test', 'lint', 'setup'])
    args, rest = parser.parse_known_args()
    if rest and args.job not in ('demo', 'test'):
        parser.error(f'unknown arguments for {args.job}: {" ".join(rest)}')
    python = str(set_up(args.in_place, args.stack))
    jobs = dict(
        demo=[[python, str(ROOT / 'tools' / 'demo.py'), *rest]],
        test=[[python, '-m', 'pytest', *rest]],
        lint=[[python, '-m', 'ruff', 'check', '.'], [python, '-m', 'mypy'],
              [python, str(ROOT / '.dev_scripts' / 'check_house.py')],
              [python, str(ROOT / '.dev_scripts' / 'config_table.py'), '--check']],
        setup=[])
    for command in jobs[args.job]:
        code = subprocess.run(command, cwd=ROOT).returncode
        if code:
            sys.exit(code)


if __name__ == '__main__':
    main()
