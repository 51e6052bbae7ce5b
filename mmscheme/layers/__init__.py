"""The mathematics of SCHEME in plain PyTorch; nothing of OpenMMLab is imported."""
from .activations import ShuffledGELU, StarReLU
from .block_diagonal import BlockDiagonalLinear, BlockDiagonalMLP, block_diagonal_linear
from .cca import ChannelCovarianceAttention, channel_covariance_attention
from .dense_guide import DenseGuide
from .scheme_mixer import SCHEMEMixer
from .shared_expert import SharedExpertFFN, auxiliary_losses
from .token_mixers import TOKEN_MIXERS, GroupedQueryAttention, Pooling, SelfAttention

__all__ = [
    'TOKEN_MIXERS', 'BlockDiagonalLinear', 'BlockDiagonalMLP', 'ChannelCovarianceAttention',
    'DenseGuide', 'GroupedQueryAttention', 'Pooling', 'SCHEMEMixer', 'SelfAttention',
    'SharedExpertFFN', 'ShuffledGELU', 'StarReLU', 'auxiliary_losses', 'block_diagonal_linear',
    'channel_covariance_attention'
]
