"""SCHEME channel mixers and SCHEMEformer backbones for OpenMMLab.

``import mmscheme.layers`` needs torch alone. OpenMMLab finds everything else by
itself through types such as ``mmscheme.SCHEMEformer`` in a config.
"""
from .utils.setup_env import get_config_path, register_all_modules, use_safe_checkpoints
from .version import __version__

__all__ = ['__version__', 'get_config_path', 'register_all_modules', 'use_safe_checkpoints']
