"""SCHEME mixers in the place of the dense channel mixers of stock backbones."""
from .adapters import ADAPTERS, Adapter, DenseMixer, find_channel_mixers
from .mixer import PlugInMixer, diagonal_blocks

__all__ = [
    'ADAPTERS', 'Adapter', 'DenseMixer', 'PlugInMixer', 'diagonal_blocks', 'find_channel_mixers'
]
