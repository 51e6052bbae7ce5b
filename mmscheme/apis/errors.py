"""Errors for people: one line on stderr instead of a traceback."""
import re
import sys
import traceback
from contextlib import contextmanager
from typing import Iterator

__all__ = ['user_errors']

# mmengine wraps what a constructor raises: "class `A` in path: class `B` in path: reason".
_BUILT_FROM = re.compile(r'class `(\w+)` in [\w/.\-]+: ')

_USER_ERRORS = (ValueError, TypeError, KeyError, AttributeError, FileNotFoundError,
                FileExistsError, NotADirectoryError, ImportError, SyntaxError, OSError)


def _one_line(error: BaseException) -> str:
    """The message without the chain of classes it passed through."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    owners = _BUILT_FROM.findall(text)
    text = _BUILT_FROM.sub('', text)
    if owners and not text.startswith(owners[-1]):
        text = f'{owners[-1]}: {text}'
    text = ' '.join(text.split()) or repr(error)
    if isinstance(error, (KeyError, AttributeError, ImportError, SyntaxError)):
        text = f'{type(error).__name__}: {text}'
    return text


@contextmanager
def user_errors(debug: bool = False) -> Iterator[None]:
    """Ends the process with status 2 and one line where the user's input is at fault.

    Put around what reads input (configs, files, arguments), not around training:
    an error there is not the user's and keeps its traceback.

    Args:
        debug: Prints the traceback too.
    """
    try:
        yield
    except _USER_ERRORS as e:
        if debug:
            traceback.print_exc()
        print(f'error: {_one_line(e)}', file=sys.stderr)
        sys.exit(2)
