"""Errors for people: one line on stderr instead of a traceback."""
import sys
import traceback
from contextlib import contextmanager
from typing import Any, Iterator

from mmengine.hooks import Hook

__all__ = ['StartedHook', 'user_errors']

# What wrong input raises in mmengine, the frameworks and here.
_USER_ERRORS = (ValueError, TypeError, LookupError, AttributeError, ImportError, SyntaxError,
                OSError, AssertionError, RuntimeError)


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


def _one_line(error: BaseException) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    text = ' '.join(text.split()) or repr(error)
    if isinstance(error, (ValueError, TypeError, OSError)):
        return text
    # Not made for people: the kind of error helps, and so does the place.
    return f'{type(error).__name__}: {text} (--debug shows where)'


@contextmanager
def user_errors(debug: bool = False) -> Iterator[StartedHook]:
    """Ends the process with status 2 and one line where the user's input is at fault.

    That is until the loop runs, which is for the hook to see: errors from then on are
    not the user's and keep their traceback.

    Args:
        debug: Prints the traceback too.

    Yields:
        The hook, to be registered with the runner.
    """
    hook = StartedHook()
    try:
        yield hook
    except _USER_ERRORS as e:
        if hook.started:
            raise
        if debug:
            traceback.print_exc()
        print(f'error: {_one_line(e)}', file=sys.stderr)
        sys.exit(2)
