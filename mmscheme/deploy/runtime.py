"""Run exported models, of every format alike."""
import json
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple, Union

import numpy as np
import torch
import torchvision  # noqa: F401 - its operators are in the graphs of detectors
from numpy.typing import NDArray

__all__ = ['DIVISOR', 'FORMATS', 'KEY', 'RUNTIMES', 'Exported', 'compile_openvino',
           'load_exported', 'onnx_session', 'to_inputs']

#: The format by the suffix of the file.
FORMATS = {'.onnx': 'onnx', '.pt2': 'torch_export', '.pt': 'torchscript'}
#: What runs ONNX files.
RUNTIMES = ('onnxruntime', 'openvino')
#: Sides of graphs of any size are multiples of it.
DIVISOR = 32
#: Under which the files keep their description.
KEY = 'mmscheme'

_Arrays = Dict[str, NDArray[Any]]
# A model from its inputs to its outputs in order, and its description.
_Opened = Tuple[Callable[[_Arrays], Sequence[NDArray[Any]]], Union[str, bytes, None]]


class Exported(NamedTuple):
    """A model that was exported.

    Attributes:
        run: Function from inputs by name to outputs by name.
        meta: The description in the file: ``task``, ``shape``, ``classes``, ``pipeline``
            and more, see :func:`mmscheme.deploy.export.describe`.
    """
    run: Callable[[_Arrays], _Arrays]
    meta: Dict[str, Any]


def load_exported(path: Union[str, Path], runtime: str = 'onnxruntime') -> Exported:
    """Open a file of ``tools/deploy/export.py``, to run on the CPU.

    Args:
        path: ``*.onnx`` (needs onnxruntime), ``*.pt2`` (torch.export) or ``*.pt``
            (TorchScript).
        runtime: One of :data:`RUNTIMES`, for ``*.onnx``.

    Returns:
        The model.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: The runtime is missing.
        ValueError: It is not an exported model, not one of ours, or not for this runtime.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(f'expected a file {", ".join("*" + s for s in FORMATS)}, found {path}')
    if not path.is_file():
        raise FileNotFoundError(f'exported model not found: {path}')
    if runtime == 'openvino' and path.suffix != '.onnx':
        raise ValueError(f'openvino: expected a file *.onnx, found {path}')
    opener = (_open_openvino if runtime == 'openvino' else
              _open_onnx if path.suffix == '.onnx' else _open_torch)
    try:
        call, text = opener(path)
    except ImportError:
        raise
    except Exception as e:  # whatever a damaged file makes a reader raise
        raise ValueError(f'not a readable model: {path} ({" ".join(str(e).split())[:160]})'
                         ) from None
    if not text:
        raise ValueError(f'{path}: no entry {KEY!r} in it; expected a file written by '
                         '`python -m mmscheme export`')
    meta = json.loads(text)
    return Exported(lambda inputs: dict(zip(meta['outputs'], call(
        {k: inputs[k] for k in meta['inputs']}))), meta)


def onnx_session(path: Union[str, Path], threads: int = 0, profile: str = '') -> Any:
    """Open a file in onnxruntime; ``threads`` are set, and ``profile`` a prefix, to time it.

    Raises:
        ImportError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ImportError('onnxruntime is needed to run *.onnx: pip install onnxruntime') from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
        # Threads that spin after a run would take the cores from whatever is timed next.
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    return onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])


def compile_openvino(path: Union[str, Path], **settings: Any) -> Any:
    """Open a file in OpenVINO, with settings of its CPU plugin.

    Raises:
        ImportError: OpenVINO is not installed.
    """
    try:
        import openvino
    except ImportError:
        raise ImportError('openvino is needed: pip install openvino') from None
    return openvino.Core().compile_model(str(path), 'CPU', {
        'INFERENCE_PRECISION_HINT': 'f32', **settings})  # some processors would take bfloat16


def _open_onnx(path: Path) -> _Opened:
    session = onnx_session(path)
    # The exporter leaves out inputs on which nothing depends.
    names = [i.name for i in session.get_inputs()]
    return (lambda inputs: session.run(None, {k: inputs[k] for k in names}),
            session.get_modelmeta().custom_metadata_map.get(KEY))


def _open_openvino(path: Path) -> _Opened:
    compiled = compile_openvino(path)
    names = [i.any_name for i in compiled.inputs]
    # Its results are in memory that the next run writes to.
    return (lambda inputs: [np.array(v) for v in compiled([inputs[n] for n in names]).values()],
            _open_onnx(path)[1])


def _open_torch(path: Path) -> _Opened:
    extra: Dict[str, Any] = {KEY: ''}
    module = (torch.jit.load(str(path), map_location='cpu', _extra_files=extra)
              if FORMATS[path.suffix] == 'torchscript' else
              torch.export.load(str(path), extra_files=extra).module())

    def call(inputs: _Arrays) -> List[NDArray[Any]]:
        with torch.no_grad():
            values = module(*(torch.from_numpy(np.asarray(v)) for v in inputs.values()))
        return [v.numpy() for v in (values if isinstance(values, (tuple, list)) else [values])]

    return call, extra[KEY]


def to_inputs(image: NDArray[Any], meta: Dict[str, Any], size: List[int],
              score_threshold: float = 0.05) -> Dict[str, NDArray[Any]]:
    """Return the inputs of a graph for one image.

    Args:
        image: ``(1, 3, H, W)`` uint8, RGB, of the graph's size.
        meta: Description of the model.
        size: Height and width of the picture in it.
        score_threshold: Lowest score of a detection.
    """
    values = dict(image=image, size=np.asarray(size, np.int64),
                  score_threshold=np.asarray(score_threshold, np.float32))
    return {k: values[k] for k in meta['inputs']}
