"""Pass a layer's keyword-only options through a constructor, declared in one place."""
import functools
import inspect
from difflib import get_close_matches
from typing import Any, Callable, Dict, TypeVar

__all__ = ['MERGED', 'interleave_evens', 'takes_options_of']

# What to do about keys that nobody wrote.
MERGED = ' (a dict in a config keeps the keys of the one it inherits, unless it has _delete_=True)'

Build = TypeVar('Build', bound=Callable[..., Any])


def takes_options_of(*layers: type, but: tuple = ('act_layer', 'drop')
                     ) -> Callable[[Build], Build]:
    """Decorate a function whose ``**options`` go to a layer, or to one of several.

    The keyword-only arguments of the layers take the place of ``**options`` in the signature, so
    that ``help()`` lists them, and any other name is an error before anything is built.

    Args:
        layers: The classes that declare and document the options.
        but: Their options that the function sets by itself.
    """

    def decorate(build: Build) -> Build:
        options = [*{p.name: p for layer in layers[::-1]
                     for p in inspect.signature(layer).parameters.values()
                     if p.kind is p.KEYWORD_ONLY and p.name not in but}.values()]
        signature = inspect.signature(build)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        known = [p.name for p in (*own, *options) if p.name != 'self']
        name = build.__qualname__.removesuffix('.__init__')

        @functools.wraps(build)
        def checked(*args: Any, **kwargs: Any) -> Any:
            for argument in kwargs:
                if argument not in known:
                    close = get_close_matches(argument, known, 1)
                    hint = f'did you mean {close[0]}?' if close else \
                        f'expected one of {known}{MERGED}'
                    raise TypeError(f'{argument}: unknown argument of {name}; {hint}')
            return build(*args, **kwargs)

        checked.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore
        return checked  # type: ignore

    return decorate


def interleave_evens(options: Dict[str, Any], index: int) -> Dict[str, Any]:
    """Return the options of a SCHEME mixer by its number among those of a width."""
    return dict(options, interleave=index % 2 == 0 and options.get('interleave', False))
