"""The clone, its pages, and commands that are run in it."""
import os
import re
import shlex
import socket
import sys
from pathlib import Path

from tests.commands import execute

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / 'README.md').read_text()
PAGES = [REPOSITORY / 'README.md', *sorted((REPOSITORY / 'docs').rglob('*.md'))]

DEMO = 'configs/upernet_scheme_s_demo.py'
# A network that shows the same behaviour in a tenth of the time.
SMALL = ['model.decode_head.channels=16', 'model.auxiliary_head.channels=16',
         'train_dataloader.batch_size=2', 'train_dataloader.num_workers=0',
         'val_dataloader.num_workers=0', 'test_dataloader.num_workers=0',
         'default_hooks.logger.interval=1']
# Make a run of the flagship short: crop, batch, iterations, workers.
SHORT = ['train_dataloader.batch_size=2', 'train_dataloader.num_workers=0',
         'val_dataloader.num_workers=0', 'test_dataloader.num_workers=0',
         'model.data_preprocessor.size=(64,64)',
         'train_dataloader.dataset.pipeline.3.crop_size=(64,64)',
         'val_dataloader.dataset.pipeline.1.scale=(80,64)',
         'test_dataloader.dataset.pipeline.1.scale=(80,64)',
         'train_cfg.max_iters=1', 'train_cfg.val_interval=1', 'default_hooks.checkpoint.interval=1']


def run(*command, fails=False, cwd=REPOSITORY, **environment):
    """Return what a command prints, run in the clone; its status must be as expected."""
    status, out, errors = execute(command, cwd, **environment)
    assert bool(status) == fails, out[-3000:] + errors[-3000:]
    return out + errors


def train_command(scenes, work_dir, *arguments, iterations=4, options=()):
    """Return the command that trains the demo in its small form."""
    return [sys.executable, 'tools/train.py', DEMO, '--data-root', scenes, '--work-dir', work_dir,
            *arguments, '--cfg-options', *SMALL, f'train_cfg.max_iters={iterations}',
            f'train_cfg.val_interval={iterations}', *options]


def readme_code(name):
    """Return the code below ``<!-- test: NAME -->`` on all pages; it may be in several blocks."""
    found = [code for page in PAGES for code in re.findall(
        rf'<!-- test: {name} -->\n```\w+(?: title="[^"]*")?\n(.*?)```', page.read_text(), re.S)]
    assert found, f'expected a block below <!-- test: {name} -->, found none'
    return ''.join(found)


def readme_commands(name):
    """Return the words of each command below a mark on the pages."""
    return [shlex.split(line) for line in readme_code(name).splitlines() if line]


def readme_names(name, replacements):
    """Run the code below a mark, with other paths in it, and return the names it leaves."""
    code = readme_code(name)
    for old, new in replacements.items():
        assert f"'{old}'" in code
        code = code.replace(f"'{old}'", f"'{new}'")
    names = {}
    exec(compile(code, f'<!-- test: {name} -->', 'exec'), names)
    return names


def free_port():
    """Return a port nobody listens on."""
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return str(s.getsockname()[1])


class RunsCode:
    """Its pickle makes a folder when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path), )
