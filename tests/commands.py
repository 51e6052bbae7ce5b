"""Tools in this process, and commands in processes that need not import the frameworks again."""
import functools
import importlib
import importlib.util
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

# Not mmscheme: each command imports it anew, as it does from a shell.
FRAMEWORKS = ['torch.distributed.optim', 'mmcv', 'mmdet.apis', 'mmdet.models', 'mmseg.apis',
              'mmseg.models', 'mmpretrain.apis', 'mmpretrain.models', 'matplotlib.pyplot',
              'pytest']
REPOSITORY = Path(__file__).resolve().parent.parent
_server = multiprocessing.get_context('forkserver')
_server.set_forkserver_preload(FRAMEWORKS)


def load_script(path):
    """Return the module of a script of the clone, such as ``studies/sweep.py``."""
    path = REPOSITORY / path
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # as for a script that is run: they import each other
    return importlib.import_module(path.stem)


@functools.cache
def load_tool(name):
    """Return the module of a tool, such as ``analysis_tools/get_flops``."""
    path = REPOSITORY / 'tools' / f'{name}.py'
    # Not by its name alone, which others have too: predict, test.
    spec = importlib.util.spec_from_file_location(f'tools.{name.replace("/", ".")}', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def execute(words, cwd, **environment):
    """Status, output and errors of a command."""
    words = [str(word) for word in words]
    # What the server asks CUDA while it imports, its children cannot ask again.
    if (words[0] != sys.executable or not words[1].endswith('.py') or environment
            or torch.cuda.is_available()):
        result = subprocess.run(words, cwd=cwd, text=True, capture_output=True,
                                env={**os.environ, **environment})
        return result.returncode, result.stdout, result.stderr
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ('out', 'err')]
        process = _server.Process(target=_script, args=(words[1:], str(cwd), files))
        process.start()
        process.join()
        return (process.exitcode, *(f.read_text(errors='replace') for f in files))


def _script(words, cwd, files):
    """Runs a script as Python does, with its output in files."""
    import numpy as np
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(cwd)
    np.random.seed()  # all would draw the same numbers
    sys.argv = words
    runpy.run_path(words[0], run_name='__main__')
