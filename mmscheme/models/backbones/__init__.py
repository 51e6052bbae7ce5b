"""Backbones for the OpenMMLab registries."""
from .scheme_wrapper import SCHEMEWrapper
from .schemeformer import ARCHS, SCHEMEformer

__all__ = ['ARCHS', 'SCHEMEWrapper', 'SCHEMEformer']
