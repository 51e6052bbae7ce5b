"""The check of README and docs finds what breaks its rules."""
import pytest

from tests.commands import load_script

check = load_script('.dev_scripts/check_pages.py')


@pytest.mark.parametrize('text, problems', [
    ('```bash\nls\n```\n', 1),
    ('<!-- test: a -->\n```bash\nls\n```\n', 0),
    ('<!-- test: b -->\n```bash\nls\n```\n', 1),
    ('<!-- not run: starts a server -->\n```bash\nls\n```\n', 0),
    ('<!-- test: a -->\n\n```bash\nls\n```\n', 1),
    ('```text\nls\n```\n', 0)])
def test_blocks(text, problems):
    assert len(list(check.find_unmarked(text, "run('a')"))) == problems


@pytest.mark.parametrize('text, problems', [
    ('[a](glossary.md) [b](glossary.md#cca) [c](https://x.y)', 0),
    ('[a](none.md)', 1), ('[a](glossary.md#none)', 1), ('```text\n[a](none.md)\n```\n', 0)])
def test_links(text, problems):
    assert len(list(check.find_dead_links(check.GLOSSARY, text))) == problems


@pytest.mark.parametrize('text, problems', [
    ('An FFN.', 1), ('An **FFN**. The FFN.', 0), ('An [FFN](glossary.md#ffn). The FFN.', 0),
    ('The FFN, an **FFN**.', 1), ('# FFN\n`FFN`\n', 0), ('SCHEMEFFN', 0),
    ('The CCA weight.', 1), ('A [CCA weight](glossary.md#cca-weight). The CCA weight.', 0),
    ('[Channel\nmixers](glossary.md#channel-mixer)', 0), ('The 12-e8 network.', 1)])
def test_terms(text, problems):
    assert len(list(check.find_unexplained(text))) == problems


def test_the_glossary_has_ten_words():
    assert check.GLOSSARY.read_text().count('\n## ') == 10
