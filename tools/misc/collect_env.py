"""Print what a bug report needs: versions, devices, and which implementations can run here."""
import argparse
import importlib
import os
import platform
import shlex
import shutil
import subprocess
from importlib.metadata import packages_distributions
from typing import Callable, Dict, List, Optional, Tuple

PACKAGES = ('mmscheme', 'torch', 'torchvision', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain',
            'timm', 'triton')


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Print the versions of mmscheme and its dependencies, the devices, and whether '
        'the C++ mixer, the Triton kernels and the operators of mmcv are available. Paste the '
        'output into bug reports.')
    return parser.parse_args(argv)


def describe_package(name: str) -> str:
    """Return the version of a package, with its distribution where that has another name."""
    version = getattr(importlib.import_module(name), '__version__', 'unknown version')
    found = set(packages_distributions().get(name, ())) - {name}
    return f'{version} (from {", ".join(sorted(found))})' if found else version


def describe_system() -> Dict[str, str]:
    """Return what mmengine finds about the machine, less what is said elsewhere or takes a page."""
    from mmengine.utils.dl_utils import collect_env
    said = {'sys.platform', 'Python', 'numpy_random_seed', 'PyTorch', 'PyTorch compiling details',
            'TorchVision', 'MMEngine'}
    return {key: str(value) for key, value in collect_env().items() if key not in said}


def describe_cuda() -> str:
    """Return the version of CUDA that torch was built for."""
    import torch
    return torch.version.cuda or 'none'


def describe_operators() -> str:
    """Return whose operators mmcv has."""
    from mmscheme.mmcv_ext.activation import find_operators, mmcv_folder
    path = find_operators(mmcv_folder())
    if path is None:
        return 'none (python -m mmscheme install_mmcv_ops)'
    return 'those of mmscheme, on torchvision' if path.suffix == '.py' else 'compiled'


def describe_compiler() -> str:
    """Return the first line that the C++ compiler says about itself."""
    command = shlex.split(os.environ.get('CXX') or 'c++')
    if shutil.which(command[0]) is None:
        return f'none ({command[0]} not found)'
    said = subprocess.run([*command, '--version'], capture_output=True, text=True, check=True)
    return said.stdout.splitlines()[0]


def describe_native() -> str:
    """Return whether the C++ mixer can be built and loaded; the first call builds it."""
    from mmscheme.ops.cpu import build
    problem = build.problem()
    return f'not available: {problem}' if problem else 'built'


def describe_triton() -> str:
    """Return whether the Triton kernels run on the GPU."""
    import torch
    if not torch.cuda.is_available():
        return 'not used: no GPU'
    from mmscheme.ops import triton_mlp
    problem = triton_mlp.needs('cuda', torch.cuda.current_device())
    return f'not available: {problem}' if problem else 'available'


def attempt(describe: Callable[..., str], *arguments: str) -> str:
    """Return a description, or why there is none, because broken installations are reported too."""
    try:
        return describe(*arguments)
    except ModuleNotFoundError as e:
        return 'not installed' if e.name in arguments else f'{type(e).__name__}: {e}'
    except Exception as e:
        return f'{type(e).__name__}: {" ".join(str(e).split())}'


def collect() -> List[Tuple[str, str]]:
    """Return the names and values of the report."""
    rows = [('platform', platform.platform()), ('Python', platform.python_version())]
    rows += [(name, attempt(describe_package, name)) for name in PACKAGES]
    rows.append(('CUDA of torch', attempt(describe_cuda)))
    try:
        rows += describe_system().items()
    except Exception as e:
        rows.append(('devices', f'{type(e).__name__}: {" ".join(str(e).split())}'))
    return rows + [
        ('operators of mmcv', attempt(describe_operators)),
        ('C++ compiler', attempt(describe_compiler)), ('C++ mixer', attempt(describe_native)),
        ('Triton kernels', attempt(describe_triton)),
        ('MMSCHEME_FUSED', os.environ.get('MMSCHEME_FUSED', 'not set'))]


def main(argv: Optional[List[str]] = None) -> None:
    """Print the report."""
    parse_args(argv)
    for name, value in collect():
        print(f'{name}: {value}')


if __name__ == '__main__':
    main()
