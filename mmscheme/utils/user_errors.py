"""Errors for people: one line on stderr, and a file with the traceback where it may be a bug."""
import errno
import importlib.metadata
import linecache
import os
import sys
import tempfile
import time
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterable, Iterator, List, Optional, Sequence

import cv2
from mmengine.hooks import Hook

__all__ = ['BadDataError', 'NonFiniteError', 'RunError', 'StartedHook', 'UserErrors',
           'is_deliberate', 'some_of', 'unexpected_traceback', 'user_errors']

# The types of error that wrong input raises in mmengine, the frameworks and here.
_USER_ERRORS = (ValueError, TypeError, LookupError, AttributeError, ImportError, SyntaxError,
                OSError, AssertionError, RuntimeError, cv2.error)

# Errors of the machine, at any time.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)

_PACKAGE = Path(__file__).resolve().parent.parent
_OURS = (_PACKAGE, _PACKAGE.parent / 'tools')


_MULTIMODAL = os.path.join('mmpretrain', 'models', 'multimodal', '')


def some_of(names: Iterable[Any], most: int = 9) -> str:
    """Return the first names for a message, with dots if there are more."""
    words = [str(n) for n in names]
    return ', '.join(words[:most]) + (', ...' if len(words) > most else '')


class UserErrors(ValueError):
    """Several faults of the input at once.

    Args:
        lines: One line for each.
        details: The tracebacks of those that may be bugs.
    """

    def __init__(self, lines: Sequence[str], details: str = '') -> None:
        super().__init__('; '.join(lines))
        self.lines = list(lines)
        self.details = details


class RunError(RuntimeError):
    """An error that stops a run which has started; tools print its line.

    Args:
        message: The line; or, as a loader hands over the error of its worker, the text of a
            traceback that ends with it.

    Attributes:
        details: The text of the traceback, if an unexpected error is the cause.
    """

    def __init__(self, message: str) -> None:
        last = _last_line(message)
        super().__init__(last.partition(f'{type(self).__name__}: ')[2] or last)
        self.details = message if 'direct cause' in message else ''


class BadDataError(RunError):
    """A sample cannot be read, or breaks the pipeline."""


class NonFiniteError(RunError):
    """Losses or weights are not finite."""


class StartedHook(Hook):
    """Note when the first batch has been read: from then on errors keep their traceback.

    Attributes:
        work_dir: Folder for the traceback of an error before that, if there is one.
    """

    def __init__(self) -> None:
        self.started = False
        self.work_dir: Optional[str] = None

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Note it."""
        self.started = True

    def before_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Note it."""
        self.started = True


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ''


def is_deliberate(error: BaseException) -> bool:
    """Return True if a line of mmscheme raised the error for its user to read.

    mmengine's registries raise an error of the same type again, with the name of the class.
    """
    link: Optional[BaseException] = error
    while link is not None and type(link) is type(error):
        frames = traceback.extract_tb(link.__traceback__)
        if frames and _raises(frames[-1]):
            return isinstance(error, (ValueError, TypeError, OSError, ImportError))
        link = link.__cause__ or link.__context__
    return False


def _raises(frame: traceback.FrameSummary) -> bool:
    """Return True for a `raise` statement of this project."""
    path = Path(frame.filename).resolve()
    return any(path.is_relative_to(folder) for folder in _OURS) and linecache.getline(
        frame.filename, frame.lineno or 0).lstrip().startswith('raise ')


def unexpected_traceback(error: BaseException) -> str:
    """Return the traceback of an error that may be a bug; empty for one that is meant."""
    if isinstance(error, (RunError, UserErrors)):
        if error.details or error.__cause__ is None:
            return error.details
    elif is_deliberate(error):
        return ''
    return ''.join(traceback.format_exception(error))


def _write_traceback(text: str, work_dir: Optional[str]) -> Optional[str]:
    """Write a traceback to the work folder, or else to the folder for temporary files."""
    name = f'error_{time.strftime("%Y%m%d_%H%M%S")}_{os.getpid()}.txt'
    for folder in (work_dir, tempfile.gettempdir()):
        path = Path(folder, name) if folder and os.path.isdir(folder) else None
        try:
            if path is not None:
                path.write_text(text)
                return str(path)
        except OSError:  # a folder that is full or read-only must not hide the error
            continue
    return None


def _lines(error: BaseException) -> List[str]:
    if isinstance(error, UserErrors):
        return error.lines
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if 'Original Traceback' in text:  # of a worker of a data loader
        text = _last_line(text).partition(f'{type(error).__name__}: ')[2] or _last_line(text)
    text = _conflict(error) or ' '.join(text.split()) or repr(error)
    # The type helps where the text was not made for people.
    readable = is_deliberate(error) or isinstance(
        error, (ValueError, TypeError, OSError, RunError))
    return [text if readable else f'{type(error).__name__}: {text}']


def _conflict(error: BaseException) -> Optional[str]:
    """Return what helps where mmpretrain meets a transformers without functions that it imports."""
    frames = traceback.extract_tb(error.__traceback__)
    if not (isinstance(error, TypeError) and frames and _MULTIMODAL in frames[-1].filename):
        return None
    return (f'mmpretrain cannot be imported beside transformers '
            f'{importlib.metadata.version("transformers")}: expected a version below 4.49, or none')


@contextmanager
def user_errors(debug: bool = False) -> Iterator[StartedHook]:
    """End the process with status 2 and a line for each fault of the user's input.

    The line of an error that mmscheme did not raise for its user names a file with the
    traceback. Once the loop has its first batch, errors are not the user's and keep their
    traceback, except those of a full disk and :class:`RunError`.

    Args:
        debug: Print the traceback too.

    Yields:
        The hook that notes the first batch, to be registered with the runner.
    """
    hook = StartedHook()
    try:
        yield hook
    except _USER_ERRORS as e:
        full = isinstance(e, OSError) and e.errno in _FULL
        if hook.started and not full and not isinstance(e, RunError):
            raise
        text = '' if full else unexpected_traceback(e)
        path = _write_traceback(text, hook.work_dir) if text else None
        if debug or (text and path is None):
            traceback.print_exc()
        *lines, last = _lines(e)
        for line in (*lines, f'{last} (traceback: {path})' if path else last):
            print(f'error: {line}', file=sys.stderr)
        sys.exit(2)
