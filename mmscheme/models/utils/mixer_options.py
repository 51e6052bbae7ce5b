"""Pass a layer's keyword-only options through a constructor, declared in one place."""
import functools
import inspect
from difflib import get_close_matches
from typing import Any, Callable, TypeVar

__all__ = ['takes_options_of']

Build = TypeVar('Build', bound=Callable[..., Any])


def takes_options_of(layer: type, but: tuple = ('act_layer', 'drop')) -> Callable[[Build], Build]:
    """Decorate a function whose ``**options`` go to a layer.

    The keyword-only arguments of the layer take the place of ``**options`` in the signature, so
    that ``help()`` lists them, and any other name is an error before anything is built.

    Args:
        layer: The class that declares and documents the options.
        but: Its options that the function sets by itself.
    """

    def decorate(build: Build) -> Build:
        options = [p for p in inspect.signature(layer).parameters.values()
                   if p.kind is p.KEYWORD_ONLY and p.name not in but]
        signature = inspect.signature(build)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        known = [p.name for p in (*own, *options) if p.name != 'self']
        name = build.__qualname__.removesuffix('.__init__')

        @functools.wraps(build)
        def checked(*args: Any, **kwargs: Any) -> Any:
            for argument in kwargs:
                if argument not in known:
                    close = get_close_matches(argument, known, 1)
                    hint = f'did you mean {close[0]}?' if close else f'expected one of {known}'
                    raise TypeError(f'{argument}: unknown argument of {name}; {hint}')
            return build(*args, **kwargs)

        checked.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore
        return checked  # type: ignore

    return decorate
