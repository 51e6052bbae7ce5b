"""A contribution as a script: support for another library's backbones, and one config."""
import os
import shutil
import subprocess
import sys

import pytest

from tests.utils import REPOSITORY

# A row of the table of families, and one of the table of tests.
ADAPTER = """\
    'toy_library.ToyMlp': Adapter(
        ('up', 'act', 'down'), extra_tokens=0),
"""
CASE = """\
    'toy': (dict(type='toy_library.ToyNet', widths=(16, 24, 32, 64)), 4, 4),
"""
LIBRARY = '''\
"""Backbones that somebody else has written."""
import torch
from mmengine.model import BaseModule
from torch import nn


class ToyMlp(nn.Module):
    """A channel mixer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.act = nn.Linear(width, 4 * width), nn.GELU()
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.act(self.up(x)))


class ToyNet(BaseModule):
    """Four stages of a convolution and a channel mixer."""

    def __init__(self, widths: tuple = (16, 24, 32, 64), **kwargs: dict) -> None:
        super().__init__(**kwargs)
        channels, strides = (3, *widths), (4, 2, 2, 2)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, s, s)
                                   for a, b, s in zip(channels, widths, strides))
        self.mlps = nn.ModuleList(map(ToyMlp, widths))

    def forward(self, x: torch.Tensor) -> tuple:
        outs = []
        for conv, mlp in zip(self.convs, self.mlps):
            x = conv(x)
            x = x + mlp(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])
            outs.append(x)
        return tuple(outs)
'''
CONFIG = """\
_base_ = '_base_/cls.py'
model = dict(
    backbone=dict(backbone=dict(type='toy_library.ToyNet')),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', in_channels=64))
"""
# Fails where no test has the name.
PYTEST = ['-m', 'pytest', '-p', 'no:cacheprovider']


@pytest.fixture
def clone(tmp_path):
    """A copy of the files that git tracks."""
    names = subprocess.run(['git', 'ls-files', '-z'], cwd=REPOSITORY, check=True,
                           capture_output=True, text=True).stdout.split('\0')
    for name in filter(None, names):
        if (REPOSITORY / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, tmp_path / name)
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif(not (REPOSITORY / '.git').exists(), reason='copies what git tracks')
def test_a_family_and_a_config_are_a_table_row_each(clone):

    def python(*words):
        environment = {**os.environ, 'PYTHONPATH': str(clone)}
        environment.pop('PYTEST_XDIST_WORKER', None)
        result = subprocess.run([sys.executable, *words], cwd=clone, text=True,
                                capture_output=True, env=environment)
        assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
        return result.stdout

    assert ADAPTER.count('\n') + CASE.count('\n') <= 15
    for name, start, row in (
            ('mmscheme/models/utils/dense_mixers.py', 'ADAPTERS: Dict[str, Adapter] = {\n',
             ADAPTER),
            ('tests/test_models/stock_backbones.py', 'BACKBONES = {\n', CASE)):
        text = (clone / name).read_text()
        assert text.count(start) == 1
        (clone / name).write_text(text.replace(start, start + row))
    (clone / 'toy_library.py').write_text(LIBRARY)
    (clone / 'configs' / 'plug_in' / 'cls_toy_44e8_in1k.py').write_text(CONFIG)
    for path in (*(clone / 'configs').glob('*.py'), *(clone / 'configs' / 'plug_in').glob('*.py')):
        if not path.stem.startswith(('cls_scheme_s_', 'cls_toy')):
            path.unlink()  # counting them takes minutes
    python('.dev_scripts/config_table.py')
    assert '| [cls_toy_44e8_in1k]' in (clone / 'configs' / 'plug_in' / 'README.md').read_text()
    python('.dev_scripts/check_house.py')
    python(*PYTEST, 'tests/test_models/test_scheme_wrapper.py', '-k', 'toy')
    python(*PYTEST, 'tests/test_plug_in_configs.py', '-k', 'cls_toy')
    python(*PYTEST, 'tests/test_analysis/test_config_table.py', '-k', 'shipped')
