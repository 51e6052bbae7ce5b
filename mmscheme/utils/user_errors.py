"""Errors for people: one line on stderr instead of a traceback."""
import errno
import sys
import traceback
from contextlib import contextmanager
from typing import Any, Iterator, List, Sequence

from mmengine.hooks import Hook

from .run_errors import RunError

__all__ = ['StartedHook', 'UserErrors', 'user_errors']

# What wrong input raises in mmengine, the frameworks and here.
_USER_ERRORS = (ValueError, TypeError, LookupError, AttributeError, ImportError, SyntaxError,
                OSError, AssertionError, RuntimeError)

# What the machine and not the code is to blame for, at any time.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


class UserErrors(ValueError):
    """Several faults of the input at once.

    Args:
        lines: One for each.
    """

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__('; '.join(lines))
        self.lines = list(lines)


class StartedHook(Hook):
    """Notes that set-up is over: the loop of training or testing runs."""

    def __init__(self) -> None:
        self.started = False

    def before_train(self, runner: Any) -> None:
        """Notes it."""
        self.started = True

    def before_test(self, runner: Any) -> None:
        """Notes it."""
        self.started = True


def _lines(error: BaseException) -> List[str]:
    return error.lines if isinstance(error, UserErrors) else [_one_line(error)]


def _one_line(error: BaseException) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    text = ' '.join(text.split()) or repr(error)
    if isinstance(error, (ValueError, TypeError, OSError, RunError)):
        return text
    # Not made for people: the kind of error helps, and so does the place.
    return f'{type(error).__name__}: {text} (--debug shows where)'


@contextmanager
def user_errors(debug: bool = False) -> Iterator[StartedHook]:
    """Ends the process with status 2 and a line for each fault of the user's input.

    That is until the loop runs, which is for the hook to see: errors from then on are
    not the user's and keep their traceback, but for a disk that is full and for
    :class:`mmscheme.utils.run_errors.RunError`.

    Args:
        debug: Prints the traceback too.

    Yields:
        The hook, to be registered with the runner.
    """
    hook = StartedHook()
    try:
        yield hook
    except _USER_ERRORS as e:
        full = isinstance(e, OSError) and e.errno in _FULL
        if hook.started and not full and not isinstance(e, RunError):
            raise
        if debug:
            traceback.print_exc()
        for line in _lines(e):
            print(f'error: {line}', file=sys.stderr)
        sys.exit(2)
