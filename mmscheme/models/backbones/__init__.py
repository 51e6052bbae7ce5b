"""Backbones for the OpenMMLab registries."""
from .mlit import MLIT_ARCHS, MAEMLiT, MLiT
from .scheme_wrapper import SCHEMEWrapper
from .schemeformer import ARCHS, SCHEMEformer

__all__ = ['ARCHS', 'MLIT_ARCHS', 'MAEMLiT', 'MLiT', 'SCHEMEWrapper', 'SCHEMEformer']
