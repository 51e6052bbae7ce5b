"""Tables and figures of studies, and that those in the repository are of its results."""
import json
import math
import shutil
import statistics

import cv2
import pytest

from mmscheme.apis.config import load_config
from tests.commands import load_script
from tests.utils import REPOSITORY

sweep = load_script('studies/sweep.py')
study = load_script('studies/study.py')
Summary, compare, find_cell = study.Summary, study.compare, study.find_cell
markdown_table, splice_table = study.markdown_table, study.splice_table
plan_runs, read_results = sweep.plan_runs, sweep.read_results

STUDIES = REPOSITORY / 'studies'


def write(folder, *results):
    folder.mkdir(exist_ok=True)
    with open(folder / 'results.jsonl', 'w') as f:
        for config, seed, value in results:
            metrics = {'test': {'aAcc': 100, 'mIoU': value}}
            if config == 'two':
                metrics['kept'] = {'top1': value + 1}
            if config == 'one':
                del metrics['test']['aAcc']
            f.write(json.dumps(dict(config=config, seed=seed, metrics=metrics, params=1234567,
                                    macs=2e6)) + '\n')
    return folder


@pytest.mark.parametrize('values', [(1., 2., 4.), (3.5, 3.5), (-7., 2.)])
def test_mean_and_deviation(values):
    summary = Summary(values)
    assert summary.mean == pytest.approx(statistics.mean(values))
    assert summary.std == pytest.approx(statistics.stdev(values))
    assert str(summary) == f'{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}'


def test_one_seed_has_no_deviation():
    assert math.isnan(Summary((2.25, )).std) and str(Summary((2.25, ))) == '2.2'


def test_cells(tmp_path):
    write(tmp_path / 'a', ('one', 1, 3.), ('two', 0, 5.), ('one', 0, 1.))
    write(tmp_path / 'b', ('one', 0, 9.))
    cell = find_cell(tmp_path / 'a', 'one')
    assert cell.summary() == cell.summary('test') == Summary((1., 3.))
    assert (cell.params, cell.macs) == (1.234567, 2.)
    assert find_cell(tmp_path / 'a', 'b/one').summary() == Summary((9., ))
    two = find_cell(tmp_path / 'a', 'two')
    assert two.summary('kept') == Summary((6., ))
    for test in (None, 'other'):
        with pytest.raises(ValueError, match=r"two: expected a test of \['test', 'kept'\]"):
            two.summary(test)
    assert two.summary('test', 'mIoU') == Summary((5., ))
    for metric in (None, 'top1'):
        with pytest.raises(ValueError, match=r"two: expected a metric of \['aAcc', 'mIoU'\]"):
            two.summary('test', metric)
    write(tmp_path / 'c', ('one', 0, 1.), ('one', 0, 1.))
    with pytest.raises(ValueError, match='several results of one with one seed'):
        find_cell(tmp_path / 'c', 'one')
    with pytest.raises(ValueError, match=r'no results of three in .*a/results.jsonl; .*sweep.py'):
        find_cell(tmp_path / 'a', 'three')


def test_tables_and_their_places():
    table = markdown_table(('a', 'b'), [('x', 1), ('y', Summary((1., 3.)))])
    assert table == '| a | b |\n| --- | ---: |\n| x | 1 |\n| y | 2.0 ± 1.4 |'
    text = 'before\n<!-- table: n -->\nold\n<!-- end -->\nafter\n<!-- table: m -->\n<!-- end -->\n'
    new = splice_table(text, 'n', table)
    assert new == text.replace('old', table)
    assert splice_table(new, 'n', table) == new
    with pytest.raises(ValueError, match='no <!-- table: other --> ... <!-- end -->'):
        splice_table(text, 'other', table)


def test_comparison(tmp_path):
    write(tmp_path / 'a', ('one', 0, 1.), ('one', 1, 3.), ('low', 0, -5.))
    table = compare(tmp_path / 'a', dict(one='first', low='second'), 'mIoU in %',
                    'mIoU')
    assert table.splitlines()[2:] == ['| first | 1.23 | 2.0 | 2.0 ± 1.4 | 2 |',
                                      '| second | 1.23 | 2.0 | -5.0 | 1 |']
    picture = cv2.imread(str(tmp_path / 'a' / 'figure.png'))
    blue = (picture[..., 0] > 120) & (picture[..., 2] < 130)
    assert blue.sum() > 30  # the dots
    assert blue.any(axis=1).sum() < picture.shape[0] / 3


def test_the_repository_shows_its_results(tmp_path):
    """Tables to the letter; figures are drawn, fonts differ between machines."""
    shutil.copytree(STUDIES, tmp_path / 'studies', ignore=shutil.ignore_patterns('*.png'))
    document = tmp_path / 'evidence.md'
    shown = (REPOSITORY / 'docs' / 'evidence.md').read_text()
    document.write_text(shown)
    names = study.draw_studies(tmp_path / 'studies', document)
    assert len(names) >= 8 and document.read_text() == shown
    for name in {path.parent.name for path in STUDIES.glob('*/results.jsonl')} - {'weights'}:
        drawn, kept = (cv2.imread(str(folder / name / 'figure.png'))
                       for folder in (tmp_path / 'studies', STUDIES))
        assert abs(drawn.shape[1] / kept.shape[1] - 1) < 0.2, name
        assert f'studies/{name}/figure.png' in shown


@pytest.mark.slow
def test_every_result_has_a_config_and_enough_seeds():
    paths = list(STUDIES.glob('*/results.jsonl'))
    assert {p.parent for p in paths} <= {p.parent for p in STUDIES.glob('*/configs')}
    for path in paths:
        done = {(r['config'], r['seed']) for r in read_results(path)}
        assert len(done) == len(read_results(path))
        assert done == {(r.cell, r.seed) for r in plan_runs(path.parent)}, path
        for result in read_results(path):
            cfg = load_config(path.parent / 'configs' / f'{result["config"]}.py')
            assert set(result['metrics']) == set(cfg.study.get('tests') or ['test'])
            assert len(result['commit']) >= 7 and result['seconds'] > 0
