"""The mathematics of SCHEME in plain PyTorch; nothing of OpenMMLab is imported."""
from .activations import ShuffledGELU, StarReLU
from .block_diagonal import BlockDiagonalLinear, BlockDiagonalMLP, block_diagonal_linear
from .cca import ChannelCovarianceAttention, channel_covariance_attention
from .scheme_mixer import SCHEMEMixer
from .token_mixers import TOKEN_MIXERS, Pooling, SelfAttention

__all__ = [
    'TOKEN_MIXERS', 'BlockDiagonalLinear', 'BlockDiagonalMLP', 'ChannelCovarianceAttention',
    'Pooling', 'SCHEMEMixer', 'SelfAttention', 'ShuffledGELU', 'StarReLU',
    'block_diagonal_linear', 'channel_covariance_attention'
]
