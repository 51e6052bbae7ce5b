"""SCHEMEformer-S12 and a segmenter on it, whose weights are written."""
from study import find_cell

from mmscheme.utils.markdown import markdown_table

NAMES = {
    'cls_s12': ('classifier, 3 epochs', 'accuracy/top1', '% top-1'),
    'semantic_fpn_s12': ('segmenter from it, 300 iterations', 'mIoU', '% mIoU'),
}


def draw(study):
    """Returns the table; a run each is no figure."""
    rows = []
    for name, (label, metric, unit) in NAMES.items():
        cell = find_cell(study, name)
        rows.append((label, f'{cell.params:.2f}', f'{cell.results[0]["seconds"]:.0f}',
                     f'{cell.summary(metric=metric)} {unit}'))
    header = ('SCHEMEformer-S12', 'parameters (M)', 'training (s, two CPU cores)', 'result')
    return dict(weights=markdown_table(header, rows))
