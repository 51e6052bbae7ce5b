"""The findings of checks: errors, which stop a run, and warnings."""
import logging
from collections import Counter
from typing import Any, List, Optional

from mmengine.logging import print_log

from mmscheme.utils.user_errors import UserErrors, unexpected_traceback

__all__ = ['Findings']


class Findings:
    """Collect the findings of checks.

    Args:
        most: Lines of one kind that are kept; the others are counted.

    Attributes:
        errors: One line each, with what to do about it.
        warnings: The same.
        tracebacks: Those of the causes that may be bugs.
        labels: Tables of the labels; see :class:`mmscheme.checks.labels.LabelTable`.
    """

    def __init__(self, most: int = 3) -> None:
        self.most = most
        self.errors: List[str] = []
        self.warnings: List[str] = []
        self.tracebacks: List[str] = []
        self.labels: List[Any] = []
        self._kinds: Counter = Counter()
        self._seen: Counter = Counter()

    def error(self, line: str, kind: str = '', cause: Optional[BaseException] = None) -> None:
        """Add an error.

        Args:
            line: The line.
            kind: Errors of one kind are kept up to ``most``.
            cause: The exception that was caught; kept unless it was raised for the user.
        """
        line = ' '.join(line.split())
        self._seen[line] += 1
        if self._seen[line] > 1:
            return
        self._kinds[kind] += 1
        if not kind or self._kinds[kind] <= self.most:
            self.errors.append(line)
            details = unexpected_traceback(cause) if cause is not None else ''
            self.tracebacks += [details] if details else []

    def warn(self, line: str) -> None:
        """Add a warning."""
        line = ' '.join(line.split())
        if line not in self.warnings:
            self.warnings.append(line)

    def error_lines(self) -> List[str]:
        """Return the errors, and how many were only counted."""
        more = [f'{count - self.most} more: {kind} (`python -m mmscheme check_config CONFIG --all` '
                'lists them)' for kind, count in self._kinds.items() if kind and count > self.most]
        return self.errors + more

    def summary(self) -> str:
        """Return the numbers of errors and warnings."""
        return ', '.join(f'{n} {word}' + 's' * (n != 1) for n, word in (
            (len(self.error_lines()), 'error'), (len(self.warnings), 'warning')))

    def as_error(self) -> UserErrors:
        """Return the errors as one exception."""
        return UserErrors(self.error_lines(), '\n'.join(self.tracebacks))

    def finish(self) -> None:
        """Log the labels of each data set, a line each, and the warnings.

        Raises:
            UserErrors: There are errors.
        """
        for table in self.labels:
            for line in table.lines(most=20) if table.counts else ():
                print_log(line, logger='current')
        for line in self.warnings:
            print_log(line, logger='current', level=logging.WARNING)
        if self.errors:
            raise self.as_error()
