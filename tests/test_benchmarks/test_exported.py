"""The benchmark of exported files writes what it times, and its tables follow from the times."""
import json

import pytest

from tests.commands import load_script

exported = load_script('benchmarks/exported.py')

pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')


@pytest.mark.slow
def test_files_are_written_once_timed_and_put_into_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(exported, 'PAGE', tmp_path / 'page.md')
    exported.PAGE.write_text('above\n<!-- exported: benchmarks/exported.py table -->\nold\n'
                             '<!-- exported: end -->\nbelow\n')
    files, results = tmp_path / 'files', tmp_path / 'results.json'
    for printed in (3, 0):
        exported.main(['write', str(files), '--only', 'mixer3_tokens_224'])
        assert len(capsys.readouterr().out.splitlines()) == printed
    exported.main(['time', str(files), '--rounds', '2', '--json', str(results)])
    data = json.loads(results.read_text())
    times = data['results'].pop('mixer3_tokens_224')
    assert not data['results'] and set(times['onnxruntime']) == {'ours', 'dense', 'e2'}
    # Milliseconds and ratios in the cells that they belong to.
    data['results'] = {
        's12_1x512': {'onnxruntime': dict(ours=[0.1, 0.01], dense=[0.15, 0.01], e2=[0.11, 0.01]),
                      'openvino': dict(ours=[0.08, 0.01], dense=[0.16, 0.03], e2=[0.1, 0.01])},
        'upernet_1x512': {'onnxruntime': dict(ours=[1., 0.01], dense=[1.05, 0.01])},
        'mixer1_map_224': {'openvino': dict(ours=[0.002, 0], dense=[0.003, 0])},
        's12_1x224_int8': {'onnxruntime': dict(ours=[0.02, 0], dense=[0.03, 0], e2=[0.024, 0])}}
    results.write_text(json.dumps(data))
    exported.main(['table', str(results)])
    page = exported.PAGE.read_text()
    assert page.startswith('above\n') and page.endswith('below\n') and 'old' not in page
    assert 'up to 3%' in page
    for row in ('| SCHEMEformer-S12 | 1 x 512^2 | 100.0 | 80.0 | 1.50 | 2.00 | 1.10 | 1.25 |  |  '
                '| 1.88 |',
                '| UPerNet | 1000.0 |  | 10% |  | 1.05 |  |  |  |  |  |',
                '| map, 1 x 224^2, openvino |  | 1.50 |  |  |',
                '| onnxruntime | 20.0 |  | 1.50 | 1.20 |'):
        assert row in page, row


@pytest.mark.parametrize('name', [*exported.CLASSIFIERS, *exported.TASKS])
def test_sides_differ_in_their_channel_mixers_alone(name):
    shown = {side: str(exported.make_config(name, side, 512).model)
             for side in ('ours', 'dense', 'e2')}
    assert len(set(shown.values())) == 3
    heads = {side: exported.make_config(name, side, 512).model.get('decode_head')
             for side in ('ours', 'dense', 'e2', 'stock')}
    assert heads['ours'] == heads['dense'] == heads['e2'] == heads['stock']
