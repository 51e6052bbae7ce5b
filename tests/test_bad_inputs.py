"""Bad input of every tool ends in lines that name it and a non-zero status, or is fine."""
import importlib
import re
import resource
import runpy
import sys
from contextlib import nullcontext

import pytest

from mmscheme.datasets.scenes import write_scenes
from tests.bad_inputs import CASES, REPOSITORY, Box


@pytest.fixture(scope='module')
def few_scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp('few') / 'scenes', 6, 2, (48, 64))


# What is valid after all does its whole work.
@pytest.mark.parametrize('case', [
    pytest.param(c, id=c.name.replace(' ', '-'), marks=[pytest.mark.slow] * (c.expected is None))
    for c in CASES])
def test_bad_input(case, few_scenes, tmp_path, monkeypatch, capsys):
    size_of_files = resource.getrlimit(resource.RLIMIT_FSIZE)
    words = [str(w) for w in case.words(Box(tmp_path, few_scenes))]
    before = {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
    monkeypatch.chdir(tmp_path)
    tool = REPOSITORY / 'tools' / case.tool
    monkeypatch.setattr(sys, 'argv', [str(tool), *words])
    # One process: the visualizer of a test before would write to its own folder.
    for name in ('mmseg', 'mmdet', 'mmpretrain'):
        module = importlib.import_module(f'{name}.visualization')
        for visualizer in vars(module).values():
            getattr(visualizer, '_instance_dict', {}).clear()
    try:
        with nullcontext() if case.expected is None else pytest.raises(SystemExit) as stop:
            runpy.run_path(str(tool), run_name='__main__')
    finally:  # a case lowers it, and pytest writes to a file perhaps
        resource.setrlimit(resource.RLIMIT_FSIZE, size_of_files)
    if case.expected is not None:
        assert stop.value.code == 2
        lines = [line.partition('error: ')[2] for line in capsys.readouterr().err.splitlines()
                 if 'error: ' in line]
        assert any(re.search(case.expected, line) for line in lines), lines
    assert {p: p.read_bytes() for p in before} == before  # nothing is lost
