"""Backbones for the OpenMMLab registries."""
from .scheme_wrapper import scheme_wrapper
from .schemeformer import ARCHS, SCHEMEformer

__all__ = ['ARCHS', 'SCHEMEformer', 'scheme_wrapper']
