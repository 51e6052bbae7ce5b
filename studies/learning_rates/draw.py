"""Learning rates by the inputs of a block, beside a larger one everywhere."""
from study import compare

NAMES = {
    'channel_mixers/44e8_no_cca_fan_in': 'one rate',
    'fan_in_half': 'blocks x 2 (power 0.5)',
    'fan_in_one': 'blocks x 4 (power 1)',
    'lr_2e3': 'all layers x 2',
    'lr_4e3': 'all layers x 4',
}


def draw(study):
    """Writes the figure and returns the table."""
    return dict(learning_rates=compare(study, NAMES, 'top-1 in %'))
