"""Entry points that need no OpenMMLab at import time."""
import importlib
from pathlib import Path

__all__ = ['get_config_path', 'register_all_modules', 'shipped_dir',
           'use_safe_checkpoints']


def shipped_dir() -> Path:
    """Return the folder of ``configs`` and ``tools``: in the installed package, or the clone."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / '.mim', package.parent):
        if (folder / 'configs' / '_base_').is_dir():
            return folder
    raise FileNotFoundError(f'the configs of mmscheme were not installed with it: {package}')


def get_config_path(name: str = '') -> str:
    """Return the path of a shipped config, to inherit from it in a project of one's own.

    Example:
        ``_base_ = __import__('mmscheme').get_config_path('upernet_scheme_s_ade20k.py')``
        as the first line of a config.

    Args:
        name: File name below the folder of configs; empty for the folder itself.

    Returns:
        The absolute path.

    Raises:
        FileNotFoundError: There is no such config; the message lists those there are.
    """
    folder = shipped_dir() / 'configs'
    if name and not (folder / name).is_file():
        found = ', '.join(sorted(p.name for p in folder.glob('*.py')))
        raise FileNotFoundError(f'no config {name!r} in mmscheme; there are: {found}')
    return str((folder / name).resolve())


def register_all_modules(init_default_scope: bool = False) -> None:
    """Register all modules of mmscheme now instead of when a config first names one.

    Args:
        init_default_scope: Also make ``mmscheme`` the default scope, so that its types are
            found without prefix. The configs of mmscheme do not need it: they keep the
            scope of their task and write ``mmscheme.X``.
    """
    for module in ('models', 'datasets', 'engine.hooks', 'engine.optimizers', 'engine.runners'):
        importlib.import_module(f'mmscheme.{module}')
    if init_default_scope:
        importlib.import_module('mmengine.registry').init_default_scope('mmscheme')


def use_safe_checkpoints() -> None:
    """Make mmengine read all checkpoints of this process without running code from them.

    mmscheme's tools do this by themselves; importing mmscheme alone leaves mmengine as it is.
    See :func:`mmscheme.utils.checkpoint_io.use_safe_checkpoints`.
    """
    importlib.import_module('mmscheme.utils.checkpoint_io').use_safe_checkpoints()
