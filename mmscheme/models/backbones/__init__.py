"""Backbones for the OpenMMLab registries."""
from .scheme_wrapper import plug_in_scheme
from .schemeformer import ARCHS, SCHEMEformer

__all__ = ['ARCHS', 'SCHEMEformer', 'plug_in_scheme']
