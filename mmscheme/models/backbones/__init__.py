"""Backbones for the OpenMMLab registries."""
from .schemeformer import ARCHS, SCHEMEformer

__all__ = ['ARCHS', 'SCHEMEformer']
