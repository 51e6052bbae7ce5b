"""Groups at equal multiply-adds, and a channel shuffle instead of CCA."""
from study import compare

NAMES = {
    '11e2_no_cca': '11-e2 (dense E=2)',
    '22e4_no_cca': '22-e4',
    'channel_mixers/44e8_no_cca_fan_in': '44-e8',
    '88e16_no_cca': '88-e16',
    '44e8_shuffle': '44-e8, channel shuffle',
    'channel_mixers/44e8_fan_in': '44-e8, CCA, schedule',
}


def draw(study):
    """Writes the figure and returns the table."""
    return dict(groups=compare(study, NAMES, 'top-1 in %'))
