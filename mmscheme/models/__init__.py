"""Adapters that put the layers into the OpenMMLab registries."""
from mmscheme.models.utils.ffn import SCHEMEFFN, BlockDiagonalFFN

from .backbones import ARCHS, MLIT_ARCHS, MAEMLiT, MLiT, SCHEMEformer, SCHEMEWrapper
from .distill import Distill
from .one_channel import CrossEntropyLoss, SegTTAModel

__all__ = [
    'ARCHS', 'MLIT_ARCHS', 'SCHEMEFFN', 'BlockDiagonalFFN', 'CrossEntropyLoss', 'Distill',
    'MAEMLiT', 'MLiT', 'SCHEMEWrapper', 'SCHEMEformer', 'SegTTAModel'
]
