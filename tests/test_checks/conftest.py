"""A few generated scenes for the checks."""
import pytest

from mmscheme.datasets.scenes import write_scenes
from tests.bad_inputs import Box


@pytest.fixture(scope='module')
def few(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp('few') / 'scenes', 6, 3, (48, 64))


@pytest.fixture
def box(few, tmp_path):
    return Box(tmp_path, few)
