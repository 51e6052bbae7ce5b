"""Faster implementations of the layers' functions; each equals the plain one in ``layers``."""
from .covariance import channel_covariance
from .mlp import ACTIVATIONS, IMPLEMENTATIONS, block_diagonal_mlp, choose_implementation, exporting
from .scheme_mixer import scheme_mixer

__all__ = [
    'ACTIVATIONS', 'IMPLEMENTATIONS', 'block_diagonal_mlp', 'channel_covariance',
    'choose_implementation', 'exporting', 'scheme_mixer'
]
