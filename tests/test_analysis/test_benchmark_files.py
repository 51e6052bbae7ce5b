"""Exported files are timed in each runtime, with what they are made of."""
import json

import pytest

from mmscheme.deploy.export import export
from mmscheme.deploy.predictor import ExportedPredictor
from mmscheme.deploy.timing import operator_times, random_inputs
from tests.commands import load_tool
from tests.models import tiny_checkpoint

main = load_tool('analysis_tools/benchmark').main

pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """A classifier's file for one image and one for three."""
    folder = tmp_path_factory.mktemp('files')
    _, checkpoint, cfg = tiny_checkpoint('cls', folder)
    for batch in (1, 3):
        export(cfg, checkpoint, folder / f'{batch}.onnx', (64, 64), batch=batch)
    return [str(folder / f'{batch}.onnx') for batch in (1, 3)]


@pytest.mark.parametrize('runtimes', [['onnxruntime'], ['onnxruntime', 'openvino']])
def test_files_in_turns(files, runtimes, tmp_path, capsys):
    for runtime in runtimes:
        pytest.importorskip(runtime)
    target = tmp_path / 'times.json'
    main(['exported', *files, '--rounds', '2', '--operators', '--json', str(target),
          '--runtimes', *runtimes])
    assert 'operators of ' + files[0] in capsys.readouterr().out
    results = json.loads(target.read_text())['results']
    names = [*runtimes, 'faster runtime of each'][:2 * len(runtimes) - 1]
    assert [r['name'] for r in results] == names
    for result in results:
        first, second = (result['runs'][file] for file in files)
        assert first['ratio'] == 1
        assert second['ratio'] == pytest.approx(second['seconds'] / first['seconds'])
        assert result['name'] not in runtimes or set(result['operators']) == set(files)
    fastest = results[-1]['runs'][files[0]]['seconds']
    assert fastest == min(r['runs'][files[0]]['seconds'] for r in results)


def test_a_file_for_several_images_predicts_no_single_one(files):
    with pytest.raises(ValueError, match='takes 3 images at once'):
        ExportedPredictor(files[1])


def test_inputs_and_operators_are_those_of_the_file(files):
    assert random_inputs(files[1], 8, None)['image'].shape == (3, 3, 64, 64)
    kinds = operator_times('onnxruntime', files[0], random_inputs(files[0], 1, None), 1, 2)
    assert kinds['Conv'] > 0 and list(kinds.values()) == sorted(kinds.values(), reverse=True)


@pytest.mark.parametrize('arguments, message', [
    (['exported'], 'expected files after "exported"'),
    (['mixer', '{}'], 'expected files after "exported"'),
    (['exported', '{}', '{}'], 'expected each file once'),
    (['exported', 'none.onnx'], 'exported model not found: none.onnx'),
    (['exported', 'model.pt'], 'expected files *.onnx, found model.pt'),
    (['exported', '{}', '--size', '96'], 'takes images of 64x64, found --size 96 96')])
def test_wrong_arguments_are_one_line(files, arguments, message, capsys):
    with pytest.raises(SystemExit) as status:
        main([argument.format(files[0]) for argument in arguments])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert status.value.code == 2 and message in error
