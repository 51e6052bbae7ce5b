"""The report about the environment says what is there, and what is broken in one line."""
import sys

import pytest
import torch

import mmscheme
from mmscheme.ops.cpu import build
from tests.commands import load_tool

tool = load_tool('misc/collect_env')


@pytest.mark.slow
def test_report(capsys):
    tool.main([])
    rows = dict(line.split(': ', 1) for line in capsys.readouterr().out.splitlines())
    assert rows['mmscheme'] == mmscheme.__version__
    assert rows['torch'].startswith(torch.__version__)
    assert rows['CUDA of torch'] == (torch.version.cuda or 'none')
    assert rows['CUDA available'] == str(torch.cuda.is_available())
    assert (rows['C++ mixer'] == 'built') == (build.problem() is None)
    assert (rows['Triton kernels'] == 'not used: no GPU') == (not torch.cuda.is_available())


@pytest.mark.parametrize('code, expected', [
    (None, 'not installed'), ('import a_missing_one', "ModuleNotFoundError: No module named"),
    ('assert False, "mmcv is too old,\\nuse another"',
     'AssertionError: mmcv is too old, use another'), ('__version__ = "1.2"', '1.2')])
def test_packages(code, expected, tmp_path, monkeypatch):
    if code is not None:
        (tmp_path / 'a_package.py').write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert tool.attempt(tool.describe_package, 'a_package').startswith(expected)
    finally:
        sys.modules.pop('a_package', None)


@pytest.mark.parametrize('name, expected', [
    (None, 'none'), ('_ext.py', 'those of mmscheme'), ('_ext.abi3.so', 'compiled')])
def test_operators(name, expected, tmp_path, monkeypatch):
    for file in ('__init__.py', name):
        if file:
            (tmp_path / file).touch()
    monkeypatch.setattr('mmscheme.mmcv_ext.activation.mmcv_folder', lambda: tmp_path)
    assert tool.describe_operators().startswith(expected)


def test_compiler(monkeypatch):
    monkeypatch.setenv('CXX', 'no-such-compiler -O2')
    assert tool.describe_compiler() == 'none (no-such-compiler not found)'
