"""A stock vision transformer, as it is and through the wrapper."""
from mmscheme.analysis.study import compare

NAMES = {
    'vit_dense': 'stock, dense E=4',
    'vit_44e8_no_cca': '44-e8 without CCA',
    'vit_44e8': '44-e8, CCA, schedule',
}


def draw(study):
    """Writes the figure and returns the table."""
    return dict(stock_backbone=compare(study, NAMES, 'top-1 in %'))
