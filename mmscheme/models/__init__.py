"""Adapters that put the layers into the OpenMMLab registries."""
from .backbones import SCHEMEformer
from .ffn import SCHEMEFFN, BlockDiagonalFFN

__all__ = ['SCHEMEFFN', 'BlockDiagonalFFN', 'SCHEMEformer']
