"""mLiT and DeiTs of its sizes."""
from study import compare

NAMES = {
    'mlit_xxs': 'mLiT-XXS',
    'deit_xxs': 'DeiT, size of XXS',
    'mlit_xs': 'mLiT-XS',
    'deit_xs': 'DeiT, size of XS',
}


def draw(study):
    """Writes the figure and returns the table."""
    return dict(mlit=compare(study, NAMES, 'top-1 in %'))
