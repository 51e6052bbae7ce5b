"""Semantic FPN on road scenes, from random weights and from the study's own classifiers."""
from study import compare

NAMES = {
    'dense_e4_random': 'dense E=4, random weights',
    '44e8_random': '44-e8, random weights',
    'dense_e4_pretrained': 'dense E=4, own classifier',
    '44e8_pretrained': '44-e8, own classifier (CCA has fallen to 0)',
}


def draw(study):
    """Writes the figure and returns the table."""
    return dict(segmentation=compare(study, NAMES, 'mIoU in %', 'mIoU'))
