"""Checks of arguments, whose errors name the argument, what was expected and what was found."""
from numbers import Integral, Real
from typing import Any, Callable, Collection, Tuple

__all__ = [
    'check_builds', 'check_choice', 'check_count', 'check_flags', 'check_number', 'read_indices'
]


def check_number(name: str, value: Any, expected: str, valid: Callable[[Any], bool],
                 kind: type = Real) -> None:
    """Check that an argument is a number for which ``valid`` returns True.

    Args:
        name: Name of the argument, as its user calls it.
        value: Its value.
        expected: The allowed values, in words.
        valid: Function of the number.
        kind: ``numbers.Integral`` for whole numbers only.

    Raises:
        TypeError: ``value`` is not a number; True and False are not.
        ValueError: It is not allowed.
    """
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(f'{name}: expected {expected}, found {value!r}')
    if not valid(value):
        raise ValueError(f'{name}: expected {expected}, found {value!r}')


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Check that an argument is a whole number from ``least`` on; see :func:`check_number`."""
    check_number(name, value, f'a whole number >= {least}', lambda n: n >= least, Integral)


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raise a ValueError if an argument is not one of some words."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f'{name}: expected one of {sorted(choices)}, found {value!r}')


def check_flags(**flags: Any) -> None:
    """Raise a TypeError if an argument is not True or False; the string 'no' is neither."""
    for name, value in flags.items():
        try:
            right = value in (True, False)  # also 0, 1 and numpy's
        except (RuntimeError, ValueError):  # an array
            right = False
        if not right:
            raise TypeError(f'{name}: expected True or False, found {value!r}')


def read_indices(name: str, value: Any, count: int, expected: str) -> Tuple[int, ...]:
    """Return one index or several different ones below ``count`` as a tuple.

    Raises:
        ValueError: ``value`` is something else; the message names the argument and ``expected``.
    """
    try:
        numbers = (value, ) if isinstance(value, Integral) else tuple(value)
    except TypeError:
        numbers = ()
    if (not numbers or len(set(map(str, numbers))) < len(numbers)
            or any(isinstance(i, bool) or not isinstance(i, Integral) or not 0 <= int(i) < count
                   for i in numbers)):
        raise ValueError(f'{name}: expected {expected}, each once, found {value!r}')
    return tuple(map(int, numbers))


def check_builds(name: str, cfg: Any, build: Callable[[], Any]) -> None:
    """Check that the dict of an argument can be built; the error names the argument.

    Raises:
        TypeError: ``cfg`` is not a dict, or has unknown arguments.
        ValueError: Its type is not registered, or it has a wrong value.
    """
    if not isinstance(cfg, dict):
        raise TypeError(f'{name}: expected a dict with a type, found {cfg!r}')
    try:
        build()
    except (KeyError, TypeError, ValueError) as e:
        kind = TypeError if isinstance(e, TypeError) else ValueError
        raise kind(f'{name}: {cfg!r}: {e.args[0] if e.args else e!r}') from None
