"""Adapters that put the layers into the OpenMMLab registries."""
from .backbones import ARCHS, SCHEMEformer, scheme_wrapper
from .ffn import SCHEMEFFN, BlockDiagonalFFN

__all__ = ['ARCHS', 'SCHEMEFFN', 'BlockDiagonalFFN', 'SCHEMEformer', 'scheme_wrapper']
