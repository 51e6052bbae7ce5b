"""Channel mixers: accuracy against what they cost."""
from study import find_cell, plot_seeds, save_figure

from mmscheme.utils.markdown import markdown_table
from mmscheme.visualization.figures import new_figure

NAMES = dict(
    dense_e4='dense E=4',
    dense_e4_std06='dense E=4, std 0.06',
    dense_e4_fan_in='dense E=4, fan-in',
    **{
        '44e8_no_cca': '44-e8 without CCA',
        '44e8_no_cca_std06': '44-e8 without CCA, std 0.06 matched',
        '44e8_no_cca_fan_in': '44-e8 without CCA, fan-in',
        '44e8_no_cca_authors_std': "44-e8 without CCA, authors' std",
        '44e8_learned': '44-e8, CCA, alpha learned',
        '44e8_learned_authors_std': "44-e8, CCA, alpha learned, authors' std",
        '44e8': '44-e8, CCA, schedule',
        '44e8_fan_in': '44-e8, CCA, schedule, fan-in',
        '44e8_authors_std': "44-e8, CCA, schedule, authors' std",
        '22e8': '22-e8, CCA, schedule',
        '12e8': '12-e8, CCA, schedule',
    })


def draw(study):
    """Writes the figure and returns the table."""
    rows, strips = [], []
    figure, ((left, right), ) = new_figure(2, size=(13.6, 4.4))
    for cell in (find_cell(study, name) for name in NAMES):
        tests = cell.results[0]['metrics']
        learned = 'kept_64' in tests
        dropped = cell.summary('dropped_64' if 'dropped_64' in tests else None)
        kept = cell.summary('kept_64') if learned else ''
        name = NAMES[cell.name]
        rows.append((name, f'{cell.params:.2f}', f'{cell.macs:.1f}', dropped, kept,
                     len(dropped.values)))
        strips.append((name, dropped))
        if learned:
            strips.append((f'{name}, kept', kept))
        if not cell.name.endswith(('std', 'std06')):
            right.errorbar(cell.macs, dropped.mean, dropped.std, fmt='o', capsize=3, label=name)
    plot_seeds(left, strips, 'top-1 in %, 64x64 (dots: seeds)')
    right.set(xlabel='multiply-adds of inference in M', ylabel='top-1 in %, CCA dropped')
    right.grid(alpha=0.3)
    right.legend(fontsize='small', loc='upper left', bbox_to_anchor=(1, 1))
    save_figure(figure, study / 'figure.png')
    return dict(channel_mixers=markdown_table(
        ('channel mixer', 'params in M', 'multiply-adds in M', 'top-1, CCA dropped',
         'CCA kept', 'seeds'), rows))
