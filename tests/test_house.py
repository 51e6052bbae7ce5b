"""The check of the house rules finds what breaks them."""
import ast

import pytest

from tests.commands import load_script

house = load_script('.dev_scripts/check_house.py')


@pytest.mark.parametrize('code, clauses', [
    ('def f():\n    "Return the mean."', 0),
    ('def f():\n    "Process a batch."', 0),
    ('def f():\n    "Whether it is so."', 1),
    ('def f():\n    "The mean."', 1),
    ('def f():\n    "Returns the mean."', 1),
    ('def f():\n    "Mean of all."', 1),
    ('class A:\n    "A mean."\n    @property\n    def f(self):\n        "The mean."', 0),
    ('class A:\n    "What is meant."\n    def f(self):\n        "Fit it."', 1),
    ('"""How it is done."""', 1)])
def test_docstrings(code, clauses):
    found = [line for node, line in house.docstrings(ast.parse(code))
             if house.is_noun_clause(node, line)]
    assert len(found) == clauses


@pytest.mark.parametrize('code, found', [
    ('from mmscheme import layers', []),
    ('def f():\n    import torch\n    from typing import Any', []),
    ('def f():\n    from mmscheme.apis import train', ['mmscheme.apis.train']),
    ('def f():\n    from . import train', ['train']),
    ('def f():\n    import mmscheme.apis', ['mmscheme.apis'])])
def test_hidden_imports(code, found):
    assert [name for _, name in house.hidden_imports(ast.parse(code))] == found


@pytest.mark.parametrize('code, lines', [
    ('import os\nimport argparse', [2]), ('def f():\n    from argparse import Namespace', [2]),
    ('import argparser', [])])
def test_argparse(code, lines):
    assert list(house.imports_argparse(ast.parse(code))) == lines


def test_circles(tmp_path, monkeypatch):
    package = tmp_path / 'a_house'
    package.mkdir()
    (package / '__init__.py').write_text('from .a import f\n')
    (package / 'a.py').write_text('from . import b\n')
    (package / 'b.py').write_text('')
    monkeypatch.syspath_prepend(tmp_path)
    assert list(house.circles('a_house')) == []
    (package / 'b.py').write_text('from a_house import f\n')
    assert len(list(house.circles('a_house'))) == 1
