"""Building and loading ``channel_mixer.cpp``: no part of torch's is needed, so it takes seconds."""
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import List, Optional, Sequence, Tuple, Union

__all__ = ['build', 'library', 'problem']

SOURCE = Path(__file__).with_name('channel_mixer.cpp')
# -ffp-contract: fused multiply-adds. The rest of -ffast-math would break infinities and NaN.
FLAGS = ('-O3', '-fopenmp', '-fno-math-errno', '-ffp-contract=fast', '-shared', '-fPIC')

_POINTER, _LONG, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_long, ctypes.c_int, ctypes.c_float
_SIGNATURES = {
    'mmscheme_mlp_forward': [_POINTER] * 6 + [_LONG] * 4 + [_INT] + [_FLOAT] * 3 + [_INT],
    'mmscheme_mlp_backward': [_POINTER] * 14 + [_LONG] * 4 + [_INT] + [_FLOAT] * 3 + [_INT],
    'mmscheme_cca_attention': [_POINTER] * 2 + [_LONG] * 3 + [_FLOAT, _INT],
    'mmscheme_cca_forward': [_POINTER] * 3 + [_LONG] * 3 + [_FLOAT] + [_INT] * 2,
    'mmscheme_cca_backward': [_POINTER] * 5 + [_LONG] * 3 + [_FLOAT] * 2 + [_INT] * 2,
}


def _cache() -> Path:
    home = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(home, 'mmscheme', 'native')


def _processor() -> str:
    """Describe the processor, because a home folder may serve machines of different ones."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor()
    return '\n'.join(sorted({line for line in lines
                             if line.startswith(('model name', 'flags', 'Features', 'CPU part'))}))


def build(folder: Union[str, Path], architecture: Sequence[str] = ('-march=native', )) -> Path:
    """Compile the library, unless the folder has it for this source, compiler and processor.

    Args:
        folder: Where it is kept.
        architecture: Flags that say for which processor.

    Returns:
        The library's path.

    Raises:
        OSError: There is no compiler, or no room or permission to write.
        subprocess.SubprocessError: It fails, or takes more than five minutes.
    """
    compiler: List[str] = shlex.split(os.environ.get('CXX') or 'c++')

    def run(*arguments: str) -> bytes:
        return subprocess.run([*compiler, *arguments], check=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=300).stdout

    key = hashlib.sha256(repr((SOURCE.read_bytes(), run('--version'), FLAGS, architecture,
                               _processor())).encode()).hexdigest()[:16]
    path = Path(folder, f'channel_mixer-{key}.so')
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Several processes may be at it: each its own, the last one stays.
        with tempfile.TemporaryDirectory(dir=path.parent) as own:
            made = Path(own, path.name)
            run(*FLAGS, *architecture, str(SOURCE), '-o', str(made))
            os.replace(made, path)
    return path


def load(path: Path) -> ctypes.CDLL:
    """Load the library and declare its functions.

    Raises:
        OSError: It cannot be loaded.
    """
    found = ctypes.CDLL(str(path))
    for name, types in _SIGNATURES.items():
        getattr(found, name).argtypes = types
    return found


@functools.lru_cache(maxsize=1)
def _find() -> Tuple[Optional[ctypes.CDLL], Optional[str]]:
    try:
        return load(build(_cache())), None
    except subprocess.CalledProcessError as e:
        lines = e.output.decode(errors='replace').strip().splitlines()
        return None, next((line for line in lines if 'error' in line), f'{e}')
    except (OSError, subprocess.SubprocessError) as e:
        return None, str(e)


def problem() -> Optional[str]:
    """Return why there is no library, None when there is one; build it at the first call."""
    return _find()[1]


def library() -> ctypes.CDLL:
    """Return the library.

    Raises:
        RuntimeError: There is none, see :func:`problem`.
    """
    found, why = _find()
    if found is None:
        raise RuntimeError(f'the native channel mixer could not be built: {why}')
    return found
