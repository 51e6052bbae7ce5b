"""Weights of other projects, and of dense backbones, for SCHEMEformer."""
from .block_diagonal import PERMUTATIONS, convert_backbone
from .channel_order import LinearStatistics, cluster_channels, permute_stage
from .classifier import BlockDiagonalModel, convert_classifier
from .fit import LayerFit, fit_mixers
from .forms import Form, compare_forms, forms_at
from .metaformer import NORMS, Converted, from_metaformer, to_timm

__all__ = [
    'NORMS', 'PERMUTATIONS', 'BlockDiagonalModel', 'Converted', 'Form', 'LayerFit',
    'LinearStatistics', 'cluster_channels', 'compare_forms', 'convert_backbone',
    'convert_classifier', 'fit_mixers', 'forms_at', 'from_metaformer', 'permute_stage', 'to_timm'
]
