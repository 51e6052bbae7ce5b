"""Tables in Markdown."""
from typing import Any, Sequence

__all__ = ['markdown_table']


def markdown_table(header: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table whose first column is text and whose others are numbers."""
    lines = [header, ['---', *['---:'] * (len(header) - 1)], *rows]
    return '\n'.join('| ' + ' | '.join(map(str, line)) + ' |' for line in lines)
