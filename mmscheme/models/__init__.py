"""Adapters that put the layers into the OpenMMLab registries."""
from .backbones import ARCHS, SCHEMEformer
from .ffn import SCHEMEFFN, BlockDiagonalFFN

__all__ = ['ARCHS', 'SCHEMEFFN', 'BlockDiagonalFFN', 'SCHEMEformer']
