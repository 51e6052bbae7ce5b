"""Checks of arguments, whose errors name the argument, what was expected and what was found."""
from numbers import Integral, Real
from typing import Any, Callable, Collection, Tuple

__all__ = [
    'check_builds', 'check_choice', 'check_count', 'check_flags', 'check_number', 'read_indices'
]


def check_number(name: str, value: Any, expected: str, valid: Callable[[Any], bool],
                 kind: type = Real) -> None:
    """Raises where an argument is no number, or not an allowed one.

    Args:
        name: The argument, as its user calls it.
        value: What was given.
        expected: What is allowed, in words.
        valid: Tells whether a number is allowed.
        kind: ``numbers.Integral`` for whole numbers only.

    Raises:
        TypeError: ``value`` is no number; True and False are none.
        ValueError: It is not an allowed one.
    """
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(f'{name}: expected {expected}, found {value!r}')
    if not valid(value):
        raise ValueError(f'{name}: expected {expected}, found {value!r}')


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raises where an argument is no whole number from ``least`` on; see :func:`check_number`."""
    check_number(name, value, f'a whole number >= {least}', lambda n: n >= least, Integral)


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raises a ValueError where an argument is not one of some words."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f'{name}: expected one of {sorted(choices)}, found {value!r}')


def check_flags(**flags: Any) -> None:
    """Raises a TypeError where an argument is not True or False; the string 'no' is neither."""
    for name, value in flags.items():
        try:
            right = value in (True, False)  # also 0, 1 and numpy's
        except (RuntimeError, ValueError):  # an array
            right = False
        if not right:
            raise TypeError(f'{name}: expected True or False, found {value!r}')


def read_indices(name: str, value: Any, count: int, expected: str) -> Tuple[int, ...]:
    """Reads one or some of the numbers from 0 on.

    Args:
        name: The argument.
        value: A number or several, none of them twice.
        count: How many there are to choose from.
        expected: What is allowed, in words.

    Raises:
        ValueError: ``value`` is not such numbers.
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
    """Builds what an argument configures, and says the argument where that fails.

    Args:
        name: The argument.
        cfg: The config that ``build`` takes, a dict.
        build: Builds it; what it gives is thrown away.

    Raises:
        TypeError: ``cfg`` is no dict, or has arguments that what it names does not take.
        ValueError: It names nothing that is known, or has a wrong value.
    """
    if not isinstance(cfg, dict):
        raise TypeError(f'{name}: expected a dict with a type, found {cfg!r}')
    try:
        build()
    except (KeyError, TypeError, ValueError) as e:
        kind = TypeError if isinstance(e, TypeError) else ValueError
        raise kind(f'{name}: {cfg!r}: {e.args[0] if e.args else e!r}') from None
