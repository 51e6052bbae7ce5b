"""The drawings are those that their scripts draw."""
import xml.etree.ElementTree as ET

import pytest

from tests.commands import load_script

drawing = load_script('.dev_scripts/draw_method.py')
concepts = load_script('.dev_scripts/draw_concepts.py')


def test_the_file_is_current():
    assert drawing.TARGET.read_text(encoding='utf-8') == drawing.draw()


def test_the_other_drawings_are_current():
    for name, picture in concepts.draw().items():
        assert (concepts.FOLDER / name).read_text(encoding='utf-8') == picture
        ET.fromstring(picture)


def test_another_file_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, 'TARGET', tmp_path / 'method.svg')
    with pytest.raises(SystemExit):
        drawing.main(['--check'])
    drawing.main([])
    drawing.main(['--check'])
    drawing.TARGET.write_text(drawing.draw().replace('CCA', 'SE'))
    with pytest.raises(SystemExit):
        drawing.main(['--check'])


def test_filled_areas_are_the_numbers_of_weights():
    """8 C^2 for the dense FFN and 4 C^2 for the block-diagonal one, as it is written there."""
    area = sum(float(shape.get('width')) * float(shape.get('height'))
               for shape in ET.fromstring(drawing.draw()).iter('{http://www.w3.org/2000/svg}rect')
               if shape.get('class') == 'full')
    assert area == (8 + 4) * drawing.C ** 2
