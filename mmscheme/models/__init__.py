"""Adapters that put the layers into the OpenMMLab registries."""
from .backbones import ARCHS, SCHEMEformer, plug_in_scheme
from .ffn import SCHEMEFFN, BlockDiagonalFFN

__all__ = ['ARCHS', 'SCHEMEFFN', 'BlockDiagonalFFN', 'SCHEMEformer', 'plug_in_scheme']
