"""Adapters that put the layers into the OpenMMLab registries."""
from mmscheme.models.utils.ffn import SCHEMEFFN, BlockDiagonalFFN

from .backbones import ARCHS, SCHEMEformer, plug_in_scheme

__all__ = ['ARCHS', 'SCHEMEFFN', 'BlockDiagonalFFN', 'SCHEMEformer', 'plug_in_scheme']
