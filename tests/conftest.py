"""Shared fixtures: small data sets, and the real ones where they are named."""
import os
from pathlib import Path

import pytest

from mmscheme.datasets.scenes import write_scenes
from tests.utils import REPOSITORY


def pytest_addoption(parser):
    parser.addoption('--fuzz', choices=['part', 'full'], default='part',
                     help='damaged files and odd arguments: some of them, or all')


@pytest.fixture(scope='session')
def fuzz_full(request):
    """Whether all damaged files are tried."""
    return request.config.getoption('--fuzz') == 'full'


@pytest.fixture(scope='session')
def scenes(tmp_path_factory):
    """A small set of generated scenes; tests do not change it."""
    return write_scenes(tmp_path_factory.mktemp('data') / 'scenes', 12, 4, (64, 80))


@pytest.fixture(scope='session')
def real_data():
    """The folder of real data sets, given by MMSCHEME_REAL_DATA; a wrong one is a failure."""
    folder = os.environ.get('MMSCHEME_REAL_DATA')
    if not folder:
        pytest.skip('MMSCHEME_REAL_DATA is not set')
    folder = Path(REPOSITORY, folder).resolve()
    assert folder.is_dir(), f'MMSCHEME_REAL_DATA: no such folder: {folder}'
    return folder


@pytest.fixture
def safe_checkpoints():
    """Switch safe loading on for a test, as the tools do, and off again."""
    from mmengine.runner import CheckpointLoader

    import mmscheme
    before = CheckpointLoader._schemes.copy()
    mmscheme.use_safe_checkpoints()
    yield
    CheckpointLoader._schemes = before


@pytest.fixture(autouse=True)
def _fresh_scopes():
    """Runners leave their default scope and logger behind; each test starts without.

    The logger of another test writes to a stream that is closed, which would be an error.
    """
    from mmengine.logging import MMLogger
    from mmengine.registry import DefaultScope
    MMLogger._instance_dict.clear()
    before = dict(DefaultScope._instance_dict)
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(before)
