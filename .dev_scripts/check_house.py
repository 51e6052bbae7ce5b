"""Check that the package keeps its house rules; `python3 tools/dev.py lint` runs this.

The rules: modules import only from floors below their own and never in a circle (the
contracts in .importlinter), none of them hides an import of the package in a function, nobody
parses arguments below mmscheme/ but utils/cli.py, docstrings are imperative sentences, and the
package stays small.
"""
import ast
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Iterator, List, Tuple

import grimp
from importlinter.cli import lint_imports

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / 'mmscheme'
# A ratchet: lower it whenever the package has shrunk. The aim is 11,500 without mmcv_ext.
MAX_LINES = 22_400
PARSES_ARGUMENTS = PACKAGE / 'utils' / 'cli.py'
# Imports of a module that only some installations can import; none of them hides a circle.
LAZY = {('ops', 'triton_mlp'), ('ops', 'triton')}
# No sentence that says what a function does starts with one of these.
QUESTIONS = {'how', 'what', 'when', 'where', 'whether', 'which', 'who', 'whoever', 'whose', 'why'}
NOUN_OPENERS = QUESTIONS | {
    'a', 'all', 'an', 'any', 'as', 'both', 'by', 'each', 'every', 'everything', 'for', 'from',
    'his', 'in', 'its', 'it', 'no', 'none', 'nothing', 'of', 'on', 'one', 'our', 'ours', 'some',
    'something', 'such', 'that', 'the', 'their', 'these', 'they', 'this', 'those', 'two', 'we',
    'with', 'without'}
# Verbs in the imperative that end like the third person ("Returns") or a plural ("Images").
IMPERATIVES_IN_S = {'access', 'address', 'bypass', 'compress', 'cross', 'discuss', 'dismiss',
                    'express', 'focus', 'guess', 'pass', 'press', 'process', 'suppress'}


def docstrings(tree: ast.Module) -> Iterator[Tuple[ast.AST, str]]:
    """Yield each node that has a docstring, with the docstring's first line."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text:
                yield node, text.splitlines()[0]


def is_property(node: ast.AST) -> bool:
    """Return True for a property, whose docstring may be a noun phrase as an attribute's is."""
    return any('property' in ast.unparse(d) for d in getattr(node, 'decorator_list', ()))


def is_noun_clause(node: ast.AST, line: str) -> bool:
    """Return True if a docstring's first line is not an imperative sentence.

    A module, class or property may be described by a noun ("Registries of mmscheme."), but by
    no question ("What a user sees.").
    """
    found = re.match(r"[A-Za-z][\w'-]*", line)
    word = found[0].lower() if found else ''
    if isinstance(node, (ast.Module, ast.ClassDef)) or is_property(node):
        return word in QUESTIONS
    return (not word or word in NOUN_OPENERS or line.split()[1:2] == ['of']
            or (word.endswith('s') and word not in IMPERATIVES_IN_S))


def hidden_imports(tree: ast.Module) -> Iterator[Tuple[int, str]]:
    """Yield the imports of the package itself that stand inside a function."""
    for function in ast.walk(tree):
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.ImportFrom):
                names = [(node.module or '') + '.' + alias.name for alias in node.names]
                own = bool(node.level)
            elif isinstance(node, ast.Import):
                names, own = [alias.name for alias in node.names], False
            else:
                continue
            for name in names:
                if own or name.split('.')[0] == 'mmscheme':
                    yield node.lineno, name.strip('.')


def imports_argparse(tree: ast.Module) -> Iterator[int]:
    """Yield the lines that import argparse."""
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else \
            [node.module] if isinstance(node, ast.ImportFrom) else []
        if 'argparse' in names:
            yield node.lineno


def circles(package: str) -> Iterator[str]:
    """Yield each circle of imports once; import-linter sees none through an ``__init__``."""
    graph, seen = grimp.build_graph(package, cache_dir=None), set()
    for module in sorted(graph.modules):
        for imported in sorted(graph.find_modules_directly_imported_by(module)):
            chain = graph.find_shortest_chain(imported, module)
            if chain and frozenset(chain) not in seen:
                seen.add(frozenset(chain))
                yield ' -> '.join((module, *chain))


def main() -> None:
    """Print what breaks a rule, then a line with the count for each, and fail if there is any."""
    clauses: List[str] = []
    hidden: List[str] = []
    parsers: List[str] = []
    for path in sorted(PACKAGE.rglob('*.py')):
        if '.mim' in path.parts:
            continue
        name, tree = path.relative_to(ROOT), ast.parse(path.read_text())
        clauses += [f'{name}:{getattr(node, "lineno", 1)}: docstring: {line}'
                    for node, line in docstrings(tree) if is_noun_clause(node, line)]
        hidden += [f'{name}:{line}: {module} is imported in a function'
                   for line, module in hidden_imports(tree)
                   if (path.parent.name, module) not in LAZY]
        if path != PARSES_ARGUMENTS:
            parsers += [f'{name}:{line}: argparse' for line in imports_argparse(tree)]
    rooms: Counter = Counter()
    for suffix in ('py', 'cpp', 'html'):
        for path in PACKAGE.rglob(f'*.{suffix}'):
            if '.mim' not in path.parts:
                room = path.relative_to(PACKAGE).parts
                rooms[room[0] if len(room) > 1 else 'itself'] += len(path.read_text().splitlines())
    lines = sum(rooms.values())
    for line in (*hidden, *parsers, *clauses):
        print(line)
    for circle in (found := list(circles('mmscheme'))):
        print(f'circle: {circle}')
    broken = bool(lint_imports(config_filename=str(ROOT / '.importlinter'), no_cache=True))
    print(f'circles: {len(found)}\n'
          f'imports that break a contract: {"some, see above" if broken else 0}\n'
          f'imports of the package hidden in functions: {len(hidden)}\n'
          f'argparse below mmscheme/ outside utils/cli.py: {len(parsers)}\n'
          f'docstrings that are not imperative sentences: {len(clauses)}\n'
          f'source lines of the package: {lines} (at most {MAX_LINES}): '
          + ', '.join(f'{room} {count}' for room, count in rooms.most_common()))
    if found or broken or hidden or parsers or clauses or lines > MAX_LINES:
        sys.exit(1)


if __name__ == '__main__':
    main()
