"""Groups at equal multiply-adds, a channel shuffle instead of CCA, and accuracy against cost."""
from study import compare, find_cell, save_figure

from mmscheme.visualization.figures import new_figure

NAMES = {
    '11e2_no_cca': '11-e2 (dense E=2)',
    '22e4_no_cca': '22-e4',
    'channel_mixers/44e8_no_cca_fan_in': '44-e8',
    '88e16_no_cca': '88-e16',
    '44e8_shuffle': '44-e8, channel shuffle',
    'channel_mixers/44e8_fan_in': '44-e8, CCA, schedule',
}
COMPARED = {
    'channel_mixers/dense_e4_fan_in': 'dense, E=4',
    '11e2_no_cca': 'dense, E=2',
    'channel_mixers/44e8_no_cca_fan_in': '44-e8',
    'channel_mixers/44e8_fan_in': '44-e8, CCA, schedule',
}


def draw_cost(study):
    """Draws accuracy against cost; those of equal cost stand beside each other."""
    figure, ((axis, ), ) = new_figure(size=(6.5, 3.6))
    for i, (path, name) in enumerate(COMPARED.items()):
        cell = find_cell(study, path)
        summary = cell.summary()
        axis.errorbar(cell.macs + (i - 2) * 0.15 * (i > 0), summary.mean, summary.std, capsize=4,
                      fmt='s' if name.startswith('dense') else 'o', color=f'C{i}',
                      label=f'{name} ({len(cell.results)} seeds)')
    axis.set(xlabel='multiply-adds of inference in M', ylabel='top-1 in %', ylim=(50, 58))
    axis.grid(alpha=0.3)
    axis.legend(loc='lower left', fontsize='small')
    save_figure(figure, study / 'accuracy_and_cost.png')


def draw(study):
    """Writes the figures and returns the table."""
    draw_cost(study)
    return dict(groups=compare(study, NAMES, 'top-1 in %'))
