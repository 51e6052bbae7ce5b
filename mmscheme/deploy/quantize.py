"""INT8 files of exported models: quantised by a library, judged by the metric on the test set."""
import logging
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Union

import numpy as np
from mmengine import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS, init_default_scope
from numpy.typing import NDArray

from mmscheme.utils.config_query import inference_pipeline, iter_datasets, scope_of
from mmscheme.utils.output_files import check_not_read, replacing

from .predictor import ExportedPredictor

__all__ = ['QUANTIZERS', 'Quantized', 'evaluate_file', 'quantize', 'write_int8']

QUANTIZERS = ('onnxruntime', 'nncf')
_LAYERS = ('Conv', 'MatMul', 'Gemm')
# With which x * sigmoid(factor * x) is nearest to GELU.
_STEEP = 1.702
_Feeds = Dict[str, NDArray[Any]]


class Quantized(NamedTuple):
    """The metric of a file before and after.

    Attributes:
        name: Name of the metric.
        before, after: Its values in points, that is percent.
    """
    name: str
    before: float
    after: float


def _calibration(cfg: Config, predictor: ExportedPredictor, number: int) -> List[_Feeds]:
    """Return inputs of the graph from training images, evenly spread over the data set."""
    for dataset in iter_datasets(cfg, ('train', )):
        images = DATASETS.build(dict(dataset, pipeline=inference_pipeline(cfg)))
        if len(images) < number:
            raise ValueError(f'--calibration: the training set has {len(images)} images, '
                             f'found {number}')
        return [predictor.prepare(images[int(i)]['inputs'])[0]
                for i in np.linspace(0, len(images) - 1, number)]
    raise ValueError('train_dataloader: the config has no images to calibrate with')


def evaluate_file(cfg: Config, predictor: ExportedPredictor) -> Dict[str, float]:
    """Return the metrics of an exported model on the test set of a config."""
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    evaluator = Evaluator(cfg.test_evaluator)
    evaluator.dataset_meta = dataset.metainfo
    for i in range(len(dataset)):
        data = dataset[i]
        sample = predictor.predict(data['inputs'], data['data_samples'])
        evaluator.process([sample], dict(inputs=[data['inputs']], data_samples=[sample]))
    return evaluator.evaluate(len(dataset))


def quantize(cfg: Config, source: Union[str, Path], target: Union[str, Path], quantizer: str,
             calibration: int, max_loss: float = 1.) -> Quantized:
    """Write the INT8 form of a file, unless its metric on the test set is much worse.

    Weights are 8 bits a channel, activations 8 bits of a range that is fixed from images.

    Args:
        cfg: The config of the model, with its data.
        source: ``*.onnx`` file of ``tools/deploy/export.py``, in float32.
        target: ``*.onnx`` file to write.
        quantizer: ``'onnxruntime'``, or ``'nncf'``, which is made for OpenVINO.
        calibration: Training images to take the ranges from.
        max_loss: Largest loss in points of the metric that the best checkpoint is chosen by.

    Returns:
        The metric.

    Raises:
        ImportError: The quantizer or its runtime is not installed.
        ValueError: The file loses more, which is then not written, or the config has no such
            metric or too few images.
    """
    check_not_read(target, source=source)
    init_default_scope(scope_of(cfg))
    before = ExportedPredictor(source)
    images = _calibration(cfg, before, calibration)
    name = str(cfg.default_hooks.get('checkpoint', {}).get('save_best'))
    with replacing(target) as part:
        first = evaluate_file(cfg, before)
        if name not in first:
            raise ValueError(f'default_hooks.checkpoint.save_best: expected one of the metrics '
                             f'{sorted(first)}, found {name!r}')
        write_int8(source, part, quantizer, images)
        after = ExportedPredictor(part, 'openvino' if quantizer == 'nncf' else 'onnxruntime')
        values = [first, evaluate_file(cfg, after)]
        unit = 100 if scope_of(cfg) == 'mmdet' else 1
        found = Quantized(name, *(float(v[name]) * unit for v in values))
        if not found.after >= found.before - max_loss:
            raise ValueError(f'{name} falls from {found.before:.2f} to {found.after:.2f} in INT8, '
                             f'expected a loss of at most {max_loss}; nothing is written')
    return found


def write_int8(source: Union[str, Path], target: Union[str, Path], quantizer: str,
               images: List[_Feeds]) -> None:
    """Write the INT8 form of an ONNX file, whatever it costs in accuracy.

    Args:
        source, target, quantizer: As of :func:`quantize`.
        images: Inputs to take the ranges from.

    Raises:
        ImportError: The quantizer is not installed.
    """
    write = _with_nncf if quantizer == 'nncf' else _with_onnxruntime
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter('ignore')
        from onnxruntime.quantization.shape_inference import quant_pre_process
        # Both want the shape of every value and constants that are folded.
        prepared = Path(folder) / 'prepared.onnx'
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        write(prepared, Path(target), images)


def _with_onnxruntime(source: Path, target: Path, images: List[_Feeds]) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        """Hand out the images one after the other."""

        def __init__(self) -> None:
            self.images: Iterator[_Feeds] = iter(images)

        def get_next(self) -> Any:
            return next(self.images, None)

    model = onnx.load(source)
    nodes = use_swish(model)
    onnx.save(model, source)
    # Products of two activations, those of attention, cost more in INT8 than they save.
    weights = {i.name for i in model.graph.initializer}
    nodes += [n.name for n in model.graph.node if n.op_type == 'Split'
              or n.op_type in _LAYERS and weights.intersection(n.input)]
    quantize_static(source, target, Reader(), per_channel=True, nodes_to_quantize=nodes,
                    op_types_to_quantize=[*_LAYERS, 'Split', 'Sigmoid', 'Mul'],
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)


def use_swish(model: Any) -> List[str]:
    """Exchange GELU for ``x * sigmoid(1.702 x)``, which onnxruntime computes in INT8 by a table.

    The factor goes into the layers before and behind. The two functions differ by 0.02 at most,
    which is about a step of 8 bits.

    Args:
        model: ONNX model, changed in place.

    Returns:
        The names of the new nodes.
    """
    from onnx import helper, numpy_helper
    graph, names = model.graph, []
    weights = {i.name: i for i in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    users = Counter(name for node in graph.node for name in node.input)
    users.update(output.name for output in graph.output)

    def before(name: str) -> List[str]:
        """Return the weights of the layer that makes a value; none where others use them."""
        node = makers.get(name)
        if node is None or users[name] > 1:
            return []
        if node.op_type == 'Reshape':
            return before(node.input[0])
        own = [n for n in node.input if n in weights]
        if any(users[n] > 1 for n in own):
            return []
        if node.op_type == 'Add' and own:  # the bias of a product
            rest = before(next(n for n in node.input if n not in weights))
            return own + rest if rest else []
        return own if node.op_type in _LAYERS else []

    def behind(name: str) -> List[str]:
        """Return the weights of the layers that take a value; none where anything else does."""
        nodes = [node for node in graph.node if name in node.input]
        found = [behind(n.output[0]) if n.op_type == 'Reshape' else [n.input[1]] if (
            n.op_type in _LAYERS and n.input[1] in weights and users[n.input[1]] == 1) else []
            for n in nodes]
        return sum(found, []) if len(nodes) == users[name] and all(found) else []

    for node in [n for n in graph.node if n.op_type == 'Gelu']:
        value, result = node.input[0], node.output[0]
        first, second = before(value), behind(result)
        if not first or not second:
            continue
        for name, factor in [(n, _STEEP) for n in first] + [(n, 1 / _STEEP) for n in second]:
            values = numpy_helper.to_array(weights[name]) * np.float32(factor)
            weights[name].CopyFrom(numpy_helper.from_array(values, name))
        place = list(graph.node).index(node)
        graph.node.remove(node)
        gate = f'{result}_sigmoid'
        new = [helper.make_node('Sigmoid', [value], [gate], name=f'{node.name}_sigmoid'),
               helper.make_node('Mul', [value, gate], [result], name=f'{node.name}_mul')]
        for i, inserted in enumerate(new):
            graph.node.insert(place + i, inserted)
        names += [n.name for n in new]
    return names


def _with_nncf(source: Path, target: Path, images: List[_Feeds]) -> None:
    try:
        import nncf
        import onnx
    except ImportError as e:
        raise ImportError(f'{e.name} is needed to quantise for OpenVINO: pip install nncf onnx'
                          ) from None
    nncf.set_log_level(logging.ERROR)
    model = nncf.quantize(onnx.load(source), nncf.Dataset(images), subset_size=len(images),
                          model_type=nncf.ModelType.TRANSFORMER)
    onnx.save(model, target)
