"""The trade-off of models, measured and drawn."""
import json

import cv2
import pytest

from mmscheme.analysis.complexity import count_config
from mmscheme.apis.config import load_config
from tests.commands import load_script
from tests.conftest import REPOSITORY

pareto = load_script('benchmarks/pareto.py')
main, read_metric = pareto.main, pareto.read_metric

ARCH = "dict(_delete_=True, depths=({}, 1, 1, 1), embed_dims=(8, 16, 32, 64))"


@pytest.fixture
def configs(tmp_path):
    """Three small classifiers: 44-e8 of two depths, and a dense one."""
    paths = []
    for name, depth, more in (('a', 1, ''), ('b', 3, ''),
                              ('c', 1, ', groups=(1, 1), expansion=4, cca=False')):
        path = tmp_path / f'{name}.py'
        path.write_text(f"_base_ = '{REPOSITORY}/configs/cls_scheme_s_demo.py'\n"
                        f'model = dict(backbone=dict(arch={ARCH.format(depth)}{more}),\n'
                        '             head=dict(in_channels=64))\n')
        paths.append(str(path))
    return paths


def test_numbers_and_picture(configs, tmp_path, capsys):
    results = []
    for i in range(len(configs)):
        result = tmp_path / f'work{i}' / 'run' / 'run.json'
        result.parent.mkdir(parents=True)
        result.write_text(json.dumps({'accuracy/top1': 50. + i, 'time': 1}))
        results.append(str(result.parent.parent if i else result))
    main([*configs, '--results', *results, '--metric', 'accuracy/top1', '--runs', '3', '--out',
          str(tmp_path / 'new' / 'p.png'), '--json', str(tmp_path / 'p.json')])
    points = json.loads((tmp_path / 'p.json').read_text())
    assert [p['series'] for p in points] == ['44-e8', '44-e8', 'dense-e4']
    assert [p['metric'] for p in points] == [50, 51, 52]
    # The hidden widths of the blocks: 8 or 4 times the channels of each stage.
    assert [p['width'] for p in points] == [8 * 120, 8 * (120 + 2 * 8), 4 * 120]
    for path, point in zip(configs, points):
        total = count_config(load_config(path)).parts['total']
        assert (point['params'], point['macs']) == total
        speed = point['throughput']
        assert 0 < speed['low'] <= speed['median'] <= speed['high'] and speed['runs'] == 3
    assert points[0]['macs'] < points[1]['macs']
    picture = cv2.imread(str(tmp_path / 'new' / 'p.png'))
    assert picture.shape[1] > 2.5 * picture.shape[0]
    assert 'middle half' in capsys.readouterr().out
    main([configs[0], '--runs', '0', '--out', str(tmp_path / 'two.png')])
    assert cv2.imread(str(tmp_path / 'two.png')).shape[1] < picture.shape[1]


def test_errors(configs, tmp_path, capsys):
    (tmp_path / 'r.json').write_text('{"mIoU": 1.0}')
    (tmp_path / 'list.json').write_text('[1]')
    (tmp_path / 'empty').mkdir()
    assert read_metric(tmp_path / 'r.json', 'mIoU') == 1
    for arguments, message in (
            (['no.py'], 'config not found'),
            ([configs[0], '--results', str(tmp_path / 'r.json')], 'belong together'),
            ([*configs, '--results', str(tmp_path / 'r.json'), '--metric', 'mIoU'],
             'expected one for each of 3 configs, found 1'),
            ([configs[0], '--results', str(tmp_path / 'r.json'), '--metric', 'aAcc'],
             "no metric 'aAcc', found ['mIoU']"),
            ([configs[0], '--results', str(tmp_path / 'list.json'), '--metric', 'aAcc'],
             "no metric 'aAcc', found []"),
            ([configs[0], '--results', str(tmp_path / 'empty'), '--metric', 'aAcc'],
             'no result of a test'),
            ([configs[0], '--results', configs[0], '--metric', 'aAcc'], 'expected the JSON'),
            ([configs[0], '--shape', '0'], '--shape: expected')):
        with pytest.raises(SystemExit) as status:
            main([*arguments, '--out', str(tmp_path / 'x.png')])
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert status.value.code == 2 and error.startswith('error: ') and message in error
    assert not (tmp_path / 'x.png').exists()
