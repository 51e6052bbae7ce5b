"""What helps 44-e8 in training and costs nothing at inference, beside dense FFNs."""
from study import compare

NAMES = {
    'channel_mixers/44e8_no_cca_fan_in': '44-e8',
    'channel_mixers/44e8_fan_in': '44-e8, CCA, schedule',
    '44e8_cca_sampled': '44-e8, CCA, sampled',
    '44e8_dense': '44-e8, dense guide',
    '44e8_dense_sampled': '44-e8, dense guide, sampled',
    '44e8_interleaved': '44-e8, interleaved',
    '44e8_dense_interleaved': '44-e8, dense guide, interleaved',
    '11e2': 'dense, E=2',
    'channel_mixers/dense_e4_fan_in': 'dense, E=4',
}


def draw(study):
    """Writes the figure and returns the table."""
    return dict(guide=compare(study, NAMES, 'top-1 in %'))
