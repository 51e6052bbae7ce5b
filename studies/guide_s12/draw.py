"""The guides with SCHEMEformer-S12 itself."""
from study import compare

NAMES = {
    '44e8': '44-e8',
    '44e8_cca': '44-e8, CCA, schedule',
    '44e8_dense': '44-e8, dense guide',
    '44e8_dense_sampled': '44-e8, dense guide, sampled',
    '44e8_interleaved': '44-e8, interleaved',
    '11e2': 'dense, E=2',
    '11e4': 'dense, E=4',
}


def draw(study):
    """Writes the figure and returns the table."""
    return dict(guide_s12=compare(study, NAMES, 'top-1 in %'))
