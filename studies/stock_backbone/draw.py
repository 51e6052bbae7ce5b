"""A stock vision transformer, as it is and through the wrapper."""
from study import compare

NAMES = {
    'vit_dense': 'stock, dense E=4',
    'vit_dense_fan_in': 'dense E=4, fan-in',
    'vit_44e8_no_cca': '44-e8 without CCA, fan-in',
    'vit_44e8': '44-e8, CCA, schedule, fan-in',
}


def draw(study):
    """Writes the figure and returns the table."""
    return dict(stock_backbone=compare(study, NAMES, 'top-1 in %'))
