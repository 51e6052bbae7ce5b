"""Errors that stop a run which has started, said in one line for people."""

__all__ = ['BadDataError', 'NonFiniteError', 'RunError']


class RunError(RuntimeError):
    """What stops a run; tools print the line and no traceback.

    Loaders hand over the error of a worker as the text of its traceback; the line is its last.

    Args:
        message: The line.
    """

    def __init__(self, message: str) -> None:
        lines = message.strip().splitlines()
        last = lines[-1] if lines else ''
        super().__init__(last.partition(f'{type(self).__name__}: ')[2] or last)


class BadDataError(RunError):
    """A sample cannot be read, or breaks the pipeline."""


class NonFiniteError(RunError):
    """Losses or weights are not finite."""
