"""Checks of the hooks that a config names."""
from mmengine import Config
from mmengine.registry import HOOKS

from mmscheme.utils.config_query import find_class

from .findings import Findings

__all__ = ['check_hooks']


def check_hooks(cfg: Config, findings: Findings) -> None:
    """Builds our hooks, which only keep their arguments; others may need a runner.

    Args:
        cfg: The config.
        findings: Where faults are added.
    """
    places = {f'default_hooks.{k}': v for k, v in (cfg.get('default_hooks') or {}).items()}
    places.update((f'custom_hooks.{i}', v) for i, v in enumerate(cfg.get('custom_hooks') or ()))
    for place, hook in places.items():
        cls = find_class(HOOKS, hook.get('type')) if isinstance(hook, dict) else None
        if not str(getattr(cls, '__module__', '')).startswith('mmscheme.'):
            continue
        try:
            HOOKS.build(hook)
        except (TypeError, ValueError) as e:
            findings.error(f'{place}: {e}')
