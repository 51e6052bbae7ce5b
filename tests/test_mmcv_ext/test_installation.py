"""The operators in a process and in an environment, with small stand-ins for mmcv."""
import re
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec

import pytest

from mmscheme.mmcv_ext import installation
from mmscheme.mmcv_ext.activation import mmcv_folder
from tests.test_mmcv_ext.conftest import INSTALLED, operators
from tests.utils import REPOSITORY, run

LINE = 'mmcv has no compiled operators:'


@pytest.fixture
def lite(tmp_path, monkeypatch):
    """A folder with an mmcv-lite that has no operators, the first on the path."""
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv' / '__init__.py').write_text('')
    info = tmp_path / 'mmcv_lite-2.1.0.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: mmcv-lite\nVersion: 2.1.0\n')
    (info / 'RECORD').write_text('mmcv/__init__.py,,\nmmcv_lite-2.1.0.dist-info/RECORD,,\n')
    monkeypatch.syspath_prepend(tmp_path)
    # Here mmcv is imported already.
    monkeypatch.setattr(installation, 'mmcv_folder', lambda: tmp_path / 'mmcv')
    return tmp_path


def python(folder, *words, **options):
    return run(sys.executable, *words, PYTHONPATH=f'{folder}:{REPOSITORY}', **options)


@pytest.mark.slow
def test_importing_needs_torch_and_torchvision_only():
    code = ('import sys\n'
            'import mmscheme.mmcv_ext\n'
            'found = {name.split(".")[0] for name in sys.modules}\n'
            'assert not found & {"mmengine", "mmcv", "mmdet", "mmseg", "mmpretrain", "cv2"}')
    subprocess.run([sys.executable, '-c', code], check=True, cwd=REPOSITORY)


@pytest.mark.slow
def test_activation_serves_the_process(lite):
    code = ('from mmscheme.mmcv_ext import activate, operators\n'
            'assert activate() and activate()\n'
            'import mmcv._ext\n'
            'import sys\n'
            'assert sys.modules["mmcv._ext"] is operators')
    assert python(lite, '-c', code).count(LINE) == 1
    assert LINE not in python(lite, '-c', code, RANK='1')
    assert [p.name for p in (lite / 'mmcv').glob('*.py')] == ['__init__.py']


@pytest.mark.slow
def test_other_operators_stay(lite):
    (lite / 'mmcv' / '_ext.py').write_text('mine = 1\n')
    code = ('from mmscheme.mmcv_ext import activate\n'
            'assert not activate()\n'
            'import mmcv._ext\n'
            'assert mmcv._ext.mine == 1')
    assert LINE not in python(lite, '-c', code)


@pytest.mark.slow
def test_installation_serves_programs_that_do_not_know_us_and_is_undone(lite):
    target, record = lite / 'mmcv' / '_ext.py', lite / 'mmcv_lite-2.1.0.dist-info' / 'RECORD'
    before = record.read_text()
    assert installation.install() == installation.install() == target
    code = ('import importlib\n'
            'module = importlib.import_module("mmcv._ext")\n'
            'print(module.nms.__module__, module.__name__)\n'
            'from mmscheme.mmcv_ext import activate\n'
            'assert activate()')
    out = python(lite, '-c', code)
    assert 'mmscheme.mmcv_ext.boxes mmscheme.mmcv_ext.operators' in out and out.count(LINE) == 1
    # pip takes the file along when it removes mmcv-lite.
    assert record.read_text() == before + 'mmcv/_ext.py,,\n'
    assert installation.uninstall() == target and installation.uninstall() is None
    assert record.read_text() == before and not target.exists()


def test_without_mmscheme_the_error_says_what_is_missing(lite):
    target = installation.install()
    out = run(sys.executable, '-S', '-c', 'import mmcv._ext', cwd=lite, fails=True)
    assert f'remove {target}' in out.splitlines()[-1]


def test_compiled_operators_are_not_replaced(lite):
    installation.install()
    compiled = lite / 'mmcv' / f'_ext{EXTENSION_SUFFIXES[0]}'
    compiled.write_text('')
    with pytest.raises(FileExistsError, match=re.escape(str(compiled))):
        installation.install()
    # Python prefers them to a file that was there before.
    assert str(compiled) in run(sys.executable, '-S', '-c', 'import mmcv._ext', cwd=lite,
                                fails=True)
    assert installation.uninstall() and compiled.exists()


@pytest.mark.slow
def test_the_tool_installs_and_fails_with_one_line_at_files_of_others(lite):
    words = REPOSITORY / 'tools' / 'misc' / 'install_mmcv_ops.py',
    assert str(lite / 'mmcv' / '_ext.py') in python(lite, *words)
    (lite / 'mmcv' / '_ext.py').write_text('mine = 1\n')
    out = python(lite, *words, '--undo', fails=True)
    assert out.startswith('error: ') and out.count('\n') == 1
    with pytest.raises(FileExistsError, match='mmscheme'):
        installation.install()
    assert (lite / 'mmcv' / '_ext.py').read_text() == 'mine = 1\n'


@pytest.mark.parametrize('spec', [None, ModuleSpec('mmcv', None)])
def test_an_environment_without_mmcv_is_an_error_of_one_line(monkeypatch, spec):
    """Also one with the empty folder that pip leaves behind."""
    monkeypatch.setattr('importlib.util.find_spec', lambda name: spec)
    with pytest.raises(FileNotFoundError, match='^mmcv: [^\n]*$'):
        mmcv_folder()


@pytest.mark.slow
def test_stock_programs_have_operators_and_say_whose():
    """mmdet is imported first, as its own tools do."""
    code = ('import mmdet.models, torch\n'
            'from mmcv.ops import nms\n'
            'print(nms(torch.tensor([[0, 0, 2, 2.]]), torch.ones(1), .5)[1])')
    out = run(sys.executable, '-c', code)
    assert 'tensor([0])' in out and out.count(LINE) == (INSTALLED is operators)
