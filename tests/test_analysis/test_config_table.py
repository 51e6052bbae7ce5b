"""The table of configs and OpenMMLab's index."""
import re
import shutil

import pytest
import yaml

from tests.commands import load_script
from tests.utils import REPOSITORY

config_table = load_script('.dev_scripts/config_table.py')
main, make_files = config_table.main, config_table.make_files


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of two small configs, and one with a stock backbone."""
    folder = tmp_path / 'configs'
    shutil.copytree(REPOSITORY / 'configs' / '_base_', folder / '_base_')
    for name in ('upernet_scheme_s_ade20k.py', 'upernet_scheme_s_demo.py'):
        text = (REPOSITORY / 'configs' / name).read_text()
        (folder / name).write_text(text + "model = dict(data_preprocessor=dict(size=(64, 64)))\n"
                                   if 'ade20k' in name else text)
    plug_in = REPOSITORY / 'configs' / 'plug_in'
    shutil.copytree(plug_in / '_base_', folder / 'plug_in' / '_base_')
    shutil.copy(plug_in / 'cls_deit_s_44e8_in1k.py', folder / 'plug_in')
    monkeypatch.setattr(config_table, 'get_config_path', lambda: str(folder))
    return tmp_path


def test_table_and_index_name_every_config(project):
    made = make_files(project / 'configs')
    plug_in = made.pop(project / 'configs' / 'plug_in' / 'README.md')
    files = {path.name: text for path, text in made.items()}
    rows = [line for line in files['README.md'].splitlines() if line.startswith('| [upernet')]
    assert [r.split(']')[0] for r in rows] == ['| [upernet_scheme_s_ade20k',
                                               '| [upernet_scheme_s_demo']
    assert '41.7 M | 11.3 M | 64x64' in rows[0]
    assert '| UPerNet | ADE20K | Swin-T | 160k | not stated | mIoU 44.4 |' in files['README.md']
    models = yaml.safe_load(files['metafile.yml'])['Models']
    assert [m['Name'] for m in models] == ['upernet_scheme_s_ade20k', 'upernet_scheme_s_demo']
    assert models[0]['Metadata']['Parameters'] == 11255640 - 12 + 30487852
    index = yaml.safe_load(files['model-index.yml'])
    assert index == {'Import': ['configs/metafile.yml']}
    row, = (line for line in plug_in.splitlines() if line.startswith('| ['))
    # DeiT-S as published, less its head; 12 mixers of 8 C^2 + 5 C become 4 C^2 + 9 C + 1.
    stock, width = 22050664 - 385000, 384
    plugged = stock - 12 * (4 * width**2 - 4 * width - 1)
    assert (f'| 44-e8 | 12 | 224x224 | {stock / 1e6:.1f} M | {plugged / 1e6:.1f} M | '
            f'{plugged / stock:.2f} |') in row
    # Multiply-adds: as many as weights less, for each of 197 tokens.
    before, after = (float(n) for n in re.findall('([0-9.]+) G', row))
    assert before - after == pytest.approx(12 * 4 * width**2 * 197 / 1e9, abs=0.011)


@pytest.mark.slow
def test_check_notices_a_changed_config(project, capsys):
    main([])
    main(['--check'])
    with open(project / 'configs' / 'upernet_scheme_s_demo.py', 'a') as f:
        f.write('model["decode_head"]["channels"] = 64\n')
    with pytest.raises(SystemExit):
        main(['--check'])
    assert 'error: not current:' in capsys.readouterr().err


def test_shipped_files_name_every_config():
    names = {p.stem for p in (REPOSITORY / 'configs').glob('*.py')}
    models = yaml.safe_load((REPOSITORY / 'configs' / 'metafile.yml').read_text())['Models']
    assert {m['Name'] for m in models} == names
    text = (REPOSITORY / 'configs' / 'README.md').read_text()
    assert all(f'[{name}]({name}.py)' in text for name in names)
    plug_in = (REPOSITORY / 'configs' / 'plug_in' / 'README.md').read_text()
    assert set(re.findall(r'\((\w+\.py)\)', plug_in)) == {
        p.name for p in (REPOSITORY / 'configs' / 'plug_in').glob('*.py')}
    imported, = yaml.safe_load((REPOSITORY / 'model-index.yml').read_text())['Import']
    assert (REPOSITORY / imported).is_file()
