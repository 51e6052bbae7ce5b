"""Check README and docs; `python3 tools/dev.py lint` runs this.

The rules: README.md has at most 150 lines; every glossary term is explained before its first use
on a page, in bold or by a link to the glossary; no link is dead; every block of code is below
``<!-- test: NAME -->``, with a test that names it, or below ``<!-- not run: REASON -->``. Blocks
marked ``text`` show files and output.
"""
import re
import sys
from pathlib import Path
from typing import Iterator, List, Tuple

ROOT = Path(__file__).resolve().parent.parent
MAX_README = 150
GLOSSARY = ROOT / 'docs' / 'glossary.md'
# How a term may be written, where that is not its heading in the glossary.
SPELLINGS = {'44-e8': r'\d\d-e\d+', 'FFN': r'FFNs?', 'Channel mixer': r'[Cc]hannel[\s-]mixers?',
             'CCA weight': r'CCA weights?', 'Block-diagonal': r'[Bb]lock-diagonal',
             'Alpha': r'[Aa]lpha', 'Multiply-adds': r'[Mm]ultiply-adds',
             'CCA': r'CCA(?!\s(?:weight|schedule))'}
# What defines a term or only repeats its names.
EXEMPT = {'docs/glossary.md', 'CHANGELOG.md', 'CONTRIBUTING.md'}
FENCE = re.compile(r'^([ ]*)```(.*?)\n(.*?)^\1```', re.M | re.S)
MARK = re.compile(r'<!-- (test|not run): (.*?) -->\n\Z')


def pages() -> List[Path]:
    """Return the pages that people read and write; tables that scripts write are no such pages."""
    return [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', ROOT / 'CHANGELOG.md',
            *sorted((ROOT / 'docs').rglob('*.md'))]


def find_unmarked(text: str, tests: str) -> Iterator[Tuple[int, str]]:
    """Yield position and complaint of each block that is neither tested nor excused."""
    for block in FENCE.finditer(text):
        language = block[2].split()[0] if block[2].strip() else ''
        if language == 'text':
            continue
        mark = MARK.search(text[:block.start()])
        if not mark:
            yield block.start(), 'a block without <!-- test: NAME --> or <!-- not run: REASON -->'
        elif mark[1] == 'test' and f"'{mark[2]}'" not in tests:
            yield block.start(), f'no test has the name of this block: {mark[2]}'


def anchors(path: Path) -> List[str]:
    """Return the anchors of the headings of a page, as GitHub and the site make them."""
    text = FENCE.sub('', path.read_text())
    return [re.sub(r'[^\w\- ]', '', re.sub(r'\[(.*?)\]\(.*?\)', r'\1', title).lower()).strip()
            .replace(' ', '-') for title in re.findall(r'^#+ (.*)$', text, re.M)]


def find_dead_links(page: Path, text: str) -> Iterator[Tuple[int, str]]:
    """Yield position and complaint of each link that leads nowhere in the repository."""
    for link in re.finditer(r'\]\(([^)\s]+)\)', FENCE.sub(lambda m: ' ' * len(m[0]), text)):
        if re.match(r'(https?|mailto):', link[1]):
            continue
        name, _, anchor = link[1].partition('#')
        target = (page.parent / name).resolve() if name else page
        if not target.exists():
            yield link.start(), f'dead link: {link[1]}'
        elif anchor and target.suffix == '.md' and anchor not in anchors(target):
            yield link.start(), f'no such heading: {link[1]}'


def find_unexplained(text: str) -> Iterator[Tuple[int, str]]:
    """Yield position and complaint of each term that is used before it is explained."""
    # Code, addresses and headings do not count: nobody reads them for an explanation.
    prose = re.compile(r'^#[^\n]*$|<!--.*?-->|`[^`\n]*`|!\[[^\]]*\]\([^)]*\)', re.M | re.S).sub(
        lambda m: ' ' * len(m[0]), FENCE.sub(lambda m: ' ' * len(m[0]), text))
    prose = re.sub(r'\]\((?![^)]*glossary\.md#)[^)]*\)', lambda m: ' ' * len(m[0]), prose)
    for term in re.findall('^## (.*)$', GLOSSARY.read_text(), re.M):
        spelling = SPELLINGS.get(term, re.escape(term))
        # "CCA weight" is a term of its own, "SCHEMEformer" a name.
        used = re.search(rf'(?<![\w-])(?:{spelling})(?![\w-])', prose)
        if not used:
            continue
        first = re.search(
            rf'(?:\*\*|\[)(?:[^*\]]*\s)?(?:{spelling})(?:\*\*|\]\([^)]*glossary\.md#)', prose)
        if not first or first.start() > used.start():
            yield used.start(), f'{term}: used before it is explained, in bold or by a link'


def main() -> None:
    """Print what breaks a rule, and fail if there is anything."""
    tests = ''.join(p.read_text() for p in (ROOT / 'tests').rglob('*.py'))
    problems = []
    for page in pages():
        name, text = page.relative_to(ROOT).as_posix(), page.read_text()
        found = [*find_unmarked(text, tests), *find_dead_links(page, text)]
        if name not in EXEMPT:
            found += find_unexplained(text)
        problems += [f'{name}:{text.count(chr(10), 0, position) + 1}: {complaint}'
                     for position, complaint in sorted(found)]
    lines = len((ROOT / 'README.md').read_text().splitlines())
    if lines > MAX_README:
        problems.append(f'README.md: at most {MAX_README} lines, found {lines}')
    print('\n'.join([*problems, f'pages: {len(pages())}, problems: {len(problems)}']))
    sys.exit(bool(problems))


if __name__ == '__main__':
    main()
