"""alpha left to itself: where 1 - alpha goes, and what dropping the branch costs at the end."""
from study import Summary, find_cell, plot_curves, save_figure

from mmscheme.utils.markdown import markdown_table
from mmscheme.visualization.figures import new_figure

NAMES = {
    'channel_mixers/44e8_learned': 'from 0.5',
    'lr10': 'from 0.5, learning rate x 10',
    'init90': 'from 0.9',
    'init90_lr10': 'from 0.9, learning rate x 10',
    'channel_mixers/44e8_learned_authors_std': "from 0.5, authors' std",
    'fan_in': 'from 0.5, fan-in',
    'channel_mixers/44e8': 'from 0.5, schedule',
}


def draw(study):
    """Writes the figure and returns the table."""
    rows = []
    figure, axes = new_figure(4, 2, (16.8, 6.), sharex=True, sharey=True)
    for axis, (path, name) in zip(axes.ravel(), NAMES.items()):
        cell = find_cell(study, path)
        plot_curves(axis, cell)
        axis.set_title(f'alpha {name}', fontsize='medium')
        ends = [[w[-1] for w in r['curve']['weights'].values()] for r in cell.results]
        means = [sum(e) / len(e) for e in zip(*ends)]
        if 'schedule' in name:  # nothing is left to drop
            rows.append((name, *(f'{m:.3f}' for m in means), cell.summary(), '', ''))
            continue
        dropped, kept = cell.summary('dropped_64'), cell.summary('kept_64')
        lost = Summary(tuple(a - b for a, b in zip(dropped.values, kept.values)))
        rows.append((name, *(f'{m:.3f}' for m in means), dropped, kept,
                     f'{lost.mean:+.2f} ± {lost.std:.2f}'))
    axes[-1, -1].set_visible(False)
    axes[0, -1].legend(title='block', fontsize='small')
    for axis in axes[:, 0]:
        axis.set_ylabel('1 − alpha')
    for axis in axes[-1]:
        axis.set_xlabel('iteration')
    save_figure(figure, study / 'figure.png')
    blocks = [f'block {i}' for i in range(len(means))]
    return dict(alpha=markdown_table(
        ('alpha', *blocks, 'top-1, dropped', 'kept', 'dropping changes'), rows))
