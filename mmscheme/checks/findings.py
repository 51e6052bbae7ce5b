"""What checks find: faults that stop a run, and doubts."""
import logging
from collections import Counter
from typing import List, Set

from mmengine.logging import print_log

from mmscheme.utils.user_errors import UserErrors

__all__ = ['Findings']


class Findings:
    """Collects what checks find.

    Args:
        most: Lines of one kind that are kept; the others are counted.

    Attributes:
        errors: One line each, with what to do about it.
        warnings: The same.
    """

    def __init__(self, most: int = 10) -> None:
        self.most = most
        self.errors: List[str] = []
        self.warnings: List[str] = []
        self._kinds: Counter = Counter()
        self._seen: Set[str] = set()

    def error(self, line: str, kind: str = '') -> None:
        """Notes a fault; of those that share a ``kind`` only so many."""
        line = ' '.join(line.split())
        if line in self._seen:
            return
        self._seen.add(line)
        self._kinds[kind] += 1
        if not kind or self._kinds[kind] <= self.most:
            self.errors.append(line)

    def warn(self, line: str) -> None:
        """Notes a doubt."""
        line = ' '.join(line.split())
        if line not in self.warnings:
            self.warnings.append(line)

    def error_lines(self) -> List[str]:
        """The faults, and how many were only counted."""
        more = [f'{count - self.most} more: {kind} (tools/misc/check_config.py CONFIG --all lists '
                'them)' for kind, count in self._kinds.items() if kind and count > self.most]
        return self.errors + more

    def finish(self) -> None:
        """Logs the doubts.

        Raises:
            UserErrors: There are faults.
        """
        for line in self.warnings:
            print_log(line, logger='current', level=logging.WARNING)
        if self.errors:
            raise UserErrors(self.error_lines())
