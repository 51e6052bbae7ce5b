"""Weights of other projects, and of dense backbones, for SCHEMEformer."""
from .block_diagonal import PERMUTATIONS, LayerFit, convert_backbone
from .channel_order import LinearStatistics, cluster_channels, permute_stage
from .classifier import BlockDiagonalModel, convert_classifier
from .metaformer import NORMS, Converted, from_metaformer, to_timm

__all__ = [
    'NORMS', 'PERMUTATIONS', 'BlockDiagonalModel', 'Converted', 'LayerFit', 'LinearStatistics',
    'cluster_channels', 'convert_backbone', 'convert_classifier', 'from_metaformer',
    'permute_stage', 'to_timm'
]
