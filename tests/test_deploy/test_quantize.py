"""INT8 files: quantised, their metric measured, not kept where it falls too far."""
import numpy as np
import onnx
import pytest
import torch
from mmengine import Config
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner

from mmscheme.deploy import quantize as quantize_module
from mmscheme.deploy.export import export
from mmscheme.deploy.predictor import ExportedPredictor
from mmscheme.deploy.quantize import QUANTIZERS, evaluate_file, quantize, use_swish
from mmscheme.models.loading import build_model, load_model
from tests.commands import load_tool
from tests.models import randomise, tiny_config

main = load_tool('deploy/export').main

onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')


@pytest.fixture(scope='module', params=['cls', pytest.param('upernet', marks=pytest.mark.slow)])
def exported(request, scenes, tmp_path_factory):
    """Config, checkpoint and float file of a tiny model on the generated scenes."""
    folder = tmp_path_factory.mktemp(request.param)
    cfg = tiny_config(request.param, scenes, folder)
    cfg.dump(folder / 'config.py')
    cfg = Config.fromfile(folder / 'config.py')
    torch.manual_seed(0)
    model = randomise(build_model(cfg))
    torch.save(dict(state_dict=model.state_dict(), meta={}), folder / 'model.pth')
    export(cfg, str(folder / 'model.pth'), folder / 'float.onnx', (64, 64))
    return cfg, folder / 'model.pth', folder / 'float.onnx'


@pytest.mark.slow
def test_the_metric_of_a_file_is_that_of_the_checkpoint(exported):
    cfg, checkpoint, file = exported
    model, _ = load_model(cfg, str(checkpoint))
    loader = Runner.build_dataloader(cfg.test_dataloader, seed=0)
    evaluator = Evaluator(cfg.test_evaluator)
    evaluator.dataset_meta = loader.dataset.metainfo
    with torch.no_grad():
        for batch in loader:
            evaluator.process(model.test_step(batch), batch)
    expected = evaluator.evaluate(len(loader.dataset))
    found = evaluate_file(cfg, ExportedPredictor(file))
    assert found and all(found[k] == pytest.approx(expected[k], abs=0.1) for k in found)


@pytest.mark.parametrize('quantizer', QUANTIZERS)
def test_weights_are_8_bits_and_outputs_near(exported, quantizer, tmp_path):
    for package in dict(nncf=('nncf', 'openvino')).get(quantizer, ()):
        pytest.importorskip(package)
    cfg, _, file = exported
    target = tmp_path / 'int8.onnx'
    metric = quantize(cfg, file, target, quantizer, 8, max_loss=100)
    assert 0 <= metric.after <= 100 and metric.before - metric.after <= 100
    weights = [i for i in onnx.load(target).graph.initializer if len(i.dims) > 1]
    small = [i for i in weights if i.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)]
    assert len(small) > 20
    floats, ints = (ExportedPredictor(f) for f in (file, target))
    assert ints.meta == floats.meta
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 64, 64), np.uint8)
    name = 'scores' if 'scores' in floats.meta['outputs'] else 'logits'
    found, expected = (p.exported.run(dict(image=image))[name] for p in (ints, floats))
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    assert 1e-4 < difference < 0.5  # other numbers, but the same model


def _spread(name, shape, scale=1.):
    values = np.linspace(-scale, scale, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    return onnx.numpy_helper.from_array(values, name)


@pytest.mark.parametrize('change', [None, 'shared', 'output', 'added'])
def test_gelu_becomes_a_swish_where_layers_take_its_factor(change):
    """A product with bias, GELU, and a layer behind a reshape; a GELU that others use stays."""
    node = onnx.helper.make_node
    nodes = [node('MatMul', ['x', 'w1'], ['product']), node('Add', ['product', 'b1'], ['sum']),
             node('Gelu', ['sum'], ['gelu'], name='gelu'),
             node('Reshape', ['gelu', 'shape'], ['flat']),
             node('Gemm', ['flat', 'w2', 'b2'], ['y'])]
    if change == 'shared':
        nodes += [node('MatMul', ['x', 'w1'], ['other'])]
    elif change == 'added':
        nodes += [node('Relu', ['gelu'], ['other'])]
    value = onnx.helper.make_tensor_value_info
    kind = onnx.TensorProto.FLOAT
    outputs = [value('y', kind, None)] + [value(name, kind, None) for name in dict(
        shared=['other'], added=['other'], output=['gelu']).get(change, [])]
    graph = onnx.helper.make_graph(
        nodes, 'layers', [value('x', kind, [2, 3, 4])], outputs,
        [_spread('w1', (4, 6)), _spread('b1', (6, ), 0.5), _spread('w2', (6, 5)),
         _spread('b2', (5, ), 0.5), onnx.numpy_helper.from_array(np.array([6, 6]), 'shape')])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid('', 20)],
                                   ir_version=9)
    x = dict(x=np.random.default_rng(0).standard_normal((2, 3, 4), np.float32) * 2)
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, x)
    names = use_swish(model)
    found = onnxruntime.InferenceSession(model.SerializeToString()).run(None, x)
    assert len(names) == (0 if change else 2)
    differences = [np.abs(a - b).max() for a, b in zip(found, expected)]
    # At most 0.02 a hidden value, of which six with weights up to 1 are summed.
    assert all(d == 0 for d in differences) if change else 1e-4 < differences[0] < 6 * 0.0204


@pytest.mark.slow
def test_what_loses_too_much_is_not_kept(exported, tmp_path, monkeypatch):
    cfg, _, file = exported
    name = cfg.default_hooks.checkpoint.save_best = dict(
        mmpretrain='accuracy/top1', mmseg='mIoU')[cfg.default_scope]
    values = iter([{name: 50.}, {name: 48.9}, {name: 50.}, {name: float('nan')}, {'x': 1.}, {}])
    monkeypatch.setattr(quantize_module, 'evaluate_file', lambda *args: next(values))
    for message in ('falls from 50.00 to 48.90', 'falls from 50.00 to nan',
                    'save_best: expected one of'):
        with pytest.raises(ValueError, match=message):
            quantize(cfg, file, tmp_path / 'int8.onnx', 'onnxruntime', 4)
    with pytest.raises(ValueError, match='--calibration: the training set has'):
        quantize(cfg, file, tmp_path / 'int8.onnx', 'onnxruntime', 9999)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_command(exported, tmp_path, capsys):
    cfg, checkpoint, _ = exported
    cfg.dump(tmp_path / 'config.py')
    main([str(tmp_path / 'config.py'), str(checkpoint), '--int8', 'onnxruntime', '--shape', '64',
          '--calibration', '8', '--max-loss', '100', '--out', str(tmp_path / 'int8.onnx')])
    assert ' in float32, ' in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ['config.py', 'int8.onnx']
    with pytest.raises(SystemExit):
        main(['config.py', 'model.pth', '--int8', 'onnxruntime', '--format', 'torchscript'])
    assert '--int8: expected' in capsys.readouterr().err
