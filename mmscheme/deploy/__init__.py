"""From a trained model to one that is shipped: folding, export, prediction from the file."""
from .fold import deploy_config, fold

__all__ = ['deploy_config', 'fold']
