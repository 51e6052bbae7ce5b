"""Temperatures of CCA: at the size of training, at larger ones, and fine-tuned at one."""
from study import find_cell, save_figure

from mmscheme.utils.markdown import markdown_table
from mmscheme.visualization.figures import new_figure

LEARNED = {
    'channel_mixers/44e8_no_cca': 'no CCA',
    'channel_mixers/44e8_learned': 'Gram matrix, published tau',
    'covariance_root_c': 'covariance, tau = sqrt(C)',
    'covariance_1': 'covariance, tau = 1',
}
SCHEDULE = {
    'channel_mixers/44e8_no_cca': 'no CCA',
    'channel_mixers/44e8': 'Gram matrix, published tau',
    'covariance_root_c_schedule': 'covariance, tau = sqrt(C)',
    'covariance_1_schedule': 'covariance, tau = 1',
}
FINE_TUNED = {
    'fine_tune_no_cca': 'no CCA',
    'fine_tune_gram': 'Gram matrix, published tau',
    'fine_tune_covariance_root_c': 'covariance, tau = sqrt(C)',
    'fine_tune_covariance_1': 'covariance, tau = 1',
}
SIZES = (64, 96, 128)


def draw(study):
    """Writes the figure and returns the tables."""
    figure, (axes, ) = new_figure(2, size=(10., 3.8), sharey=True)
    rows = []
    for i, (path, name) in enumerate(LEARNED.items()):
        cell = find_cell(study, path)
        row = [name]
        for axis, branch in zip(axes, ('kept', 'dropped')):
            if 'no_cca' in path and branch == 'kept':
                row += [''] * len(SIZES)
                continue
            found = [cell.summary(f'{branch}_{size}') for size in SIZES]
            axis.errorbar(SIZES, [s.mean for s in found], [s.std for s in found], marker='o',
                          color=f'C{i}', capsize=3, label=name)
            axis.set_title(f'CCA {branch} in the test')
            row += found
        rows.append(row)
    for axis in axes:
        axis.set(xlabel='side of the test image, trained at 64', xticks=SIZES)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel('top-1 in %')
    axes[1].legend(fontsize='small')
    save_figure(figure, study / 'figure.png')
    header = [f'{branch}, {size}' for branch in ('kept', 'dropped') for size in SIZES]
    tuned = []
    for path, name in FINE_TUNED.items():
        cell = find_cell(study, path)
        kept = cell.summary('kept_96') if 'kept_96' in cell.results[0]['metrics'] else ''
        tuned.append((name, kept, cell.summary('dropped_96')))
    return dict(
        tau_sizes=markdown_table(('alpha left to itself', *header), rows),
        tau_schedule=markdown_table(
            ('with the schedule', 'top-1, 64'),
            [(name, find_cell(study, path).summary('dropped_64' if 'no_cca' in path else None))
             for path, name in SCHEDULE.items()]),
        tau_fine_tuned=markdown_table(('an epoch more at 96', 'kept, 96', 'dropped, 96'), tuned))
