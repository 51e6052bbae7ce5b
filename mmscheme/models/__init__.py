"""Adapters that put the layers into the OpenMMLab registries."""
from mmscheme.models.utils.ffn import SCHEMEFFN, BlockDiagonalFFN

from .backbones import ARCHS, SCHEMEformer, SCHEMEWrapper
from .distill import Distill

__all__ = ['ARCHS', 'SCHEMEFFN', 'BlockDiagonalFFN', 'Distill', 'SCHEMEWrapper', 'SCHEMEformer']
