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


def check_machine() -> None:
    """What must be there before anything is installed."""
    if sys.version_info < (3, 10):  # noqa: UP036 - this runs before anything is installed
        fail(f'Python 3.10 or newer is needed, this is {platform.python_version()}; '
             'call this file with a newer one')
    if not (shutil.which(os.environ.get('CXX', 'c++')) or shutil.which('g++')):
        fail('a C++ compiler is needed to build mmcv, found neither c++ nor g++ '
             '(Debian, Ubuntu: apt install g++)')
    if not Path(sysconfig.get_paths()['include'], 'Python.h').exists():
        fail('the headers of Python are needed to build mmcv, found no Python.h '
             '(Debian, Ubuntu: apt install python3-dev)')


def make_venv(folder: Path) -> Path:
    """The interpreter of the environment, which is made if need be."""
    python = folder / 'bin' / 'python'
    if not python.exists():
        say(f'making the environment {folder}')
        result = subprocess.run([sys.executable, '-m', 'venv', '--clear', str(folder)],
                                capture_output=True, text=True)
        if result.returncode:
            shutil.rmtree(folder, ignore_errors=True)
            fail('Python could not make an environment (Debian, Ubuntu: apt install '
                 f'python3-venv): {(result.stdout + result.stderr).strip().splitlines()[-1]}')
    return python


def ask(python: Path, code: str) -> str:
    """What a line of Python prints in the environment; empty when it fails."""
    result = subprocess.run([str(python), '-c', code], capture_output=True, text=True)
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
    key = f'torch{torch}-{tag}-{"cuda" + cuda if toolkit else "cpu"}-{platform.machine()}'
    folder = cache / 'wheels' / key / requirement.replace('==', '-')
    found = sorted(folder.glob('*.whl'))
    if found:
        say(f'mmcv was built before: {found[0]}')
        return found[0]
    pip(python, 'install', '-q', *read_requirements('build'))
    env = dict(os.environ, MMCV_WITH_OPS='1', MAX_JOBS=os.environ.get(
        'MAX_JOBS', str(os.cpu_count() or 1)))
    if toolkit:
        env.update(FORCE_CUDA='1', CUDA_HOME=str(toolkit))
    else:
        env.update(FORCE_CUDA='0', CUDA_VISIBLE_DEVICES='')
    part = folder.with_name(folder.name + f'.part{os.getpid()}')
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    log = folder.parent / f'build-{os.getpid()}.log'
    say(f'building {requirement} for torch {torch} ({"CUDA " + cuda if toolkit else "CPU"}), '
        f'about 10 minutes on 2 cores; log: {log}')
    # pip's own cache does not know that a wheel belongs to one torch.
    command = [str(python), '-m', 'pip', 'wheel', '-v', '--no-cache-dir', '--no-deps',
               '--no-build-isolation', '-w', str(part), requirement]
    if run_with_progress(command, env, log):
        tail = ''.join(f'  {line}\n' for line in log.read_text(errors='replace').splitlines()[-15:])
        shutil.rmtree(part, ignore_errors=True)
        print(tail, file=sys.stderr)
        fail(f'mmcv could not be built; the whole log: {log}')
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
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


def fingerprint(stack: str) -> str:
    """Changes when anything that set-up depends on does."""
    digest = hashlib.sha256()
    for path in (*sorted(REQUIREMENTS.glob('*.txt')), ROOT / 'setup.py',
                 ROOT / 'mmscheme' / 'version.py', Path(__file__)):
        digest.update(path.read_bytes())
    digest.update(f'{stack} {sys.version} {ROOT}'.encode())
    return digest.hexdigest()


def set_up(in_place: bool, stack: Optional[str]) -> Path:
    """Installs what is missing; returns the interpreter to work with."""
    check_machine()
    stack = stack or ('upstream' if sys.version_info < (3, 13) else 'forks')
    python = Path(sys.executable) if in_place else make_venv(ROOT / '.venv')
    if in_place and not probe_torch(python)[0]:
        fail(f'--in-place uses the torch of {python}, found none there')
    site = ask(python, 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
    stamp = Path(site) / 'mmscheme-set-up'
    wanted = fingerprint(stack)
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    requirements = read_requirements(stack)
    torches = [requirement_of(requirements, name) for name in ('torch', 'torchvision')]
    if in_place:
        torches = [f'{name}=={version}' for name in ('torch', 'torchvision') if (
            version := ask(python, f'import {name}; print({name}.__version__)'))]
        if len(torches) < 2:
            fail(f'{python} has torch but no torchvision that works with it')
        say(f'using {" and ".join(torches)} as they are')
    else:
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
    pip(python, 'install', '-q', *read_requirements('build'))
    pip(python, 'install', '-q', str(wheel), *torches, *rest, *read_requirements('dev'))
    pip(python, 'install', '-q', '--no-build-isolation', '--no-deps', '-e', str(ROOT))
    stamp.write_text(wanted)
    say('done')
    return python


def main() -> None:
    """Reads the command line, sets up and does the job."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--in-place', action='store_true',
                        help='no environment of its own: use the Python that runs this and its '
                        'torch and torchvision as they are')
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
        lint=[[python, '-m', 'ruff', 'check', '.'], [python, '-m', 'mypy']],
        setup=[])
    for command in jobs[args.job]:
        code = subprocess.run(command, cwd=ROOT).returncode
        if code:
            sys.exit(code)


if __name__ == '__main__':
    main()
