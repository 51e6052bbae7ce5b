"""Our mixers in the place of the dense channel mixers of stock backbones."""
from .dense_mixers import ADAPTERS, Adapter, DenseMixer, find_channel_mixers, select_mixers
from .plug_in_mixer import PlugInExperts, PlugInMixer, diagonal_blocks

__all__ = [
    'ADAPTERS', 'Adapter', 'DenseMixer', 'PlugInExperts', 'PlugInMixer', 'diagonal_blocks',
    'find_channel_mixers', 'select_mixers'
]
