"""Faster implementations of the layers' functions; each equals the plain one in ``layers``."""
from .covariance import channel_covariance
from .dispatch import (
    ACTIVATIONS,
    IMPLEMENTATIONS,
    choose_mlp,
    exporting,
    in_transform,
    is_fused_cca,
)
from .mlp import block_diagonal_mlp
from .scheme_mixer import scheme_mixer

__all__ = [
    'ACTIVATIONS', 'IMPLEMENTATIONS', 'block_diagonal_mlp', 'channel_covariance', 'choose_mlp',
    'exporting', 'in_transform', 'is_fused_cca', 'scheme_mixer'
]
