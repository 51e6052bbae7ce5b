"""Running exported models, of every format alike."""
import json
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Union

import numpy as np
from numpy.typing import NDArray

__all__ = ['FORMATS', 'KEY', 'Exported', 'load_exported']

#: The format by the suffix of the file.
FORMATS = {'.onnx': 'onnx', '.pt2': 'torch_export', '.pt': 'torchscript'}
#: Under which the files keep their description.
KEY = 'mmscheme'


class Exported(NamedTuple):
    """A model that was exported.

    Attributes:
        run: From inputs by name to outputs by name.
        meta: What the file says about itself: ``task``, ``shape``, ``classes``, ``pipeline``
            and more, see :func:`mmscheme.deploy.export.describe`.
    """
    run: Callable[[Dict[str, NDArray[Any]]], Dict[str, NDArray[Any]]]
    meta: Dict[str, Any]


def load_exported(path: Union[str, Path]) -> Exported:
    """Open a file of ``tools/deploy/export.py``, to run on the CPU.

    Args:
        path: ``*.onnx`` (needs onnxruntime), ``*.pt2`` (torch.export) or ``*.pt``
            (TorchScript).

    Returns:
        The model.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: onnxruntime is missing.
        ValueError: It is no exported model, or not one of ours.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(f'expected a file {", ".join("*" + s for s in FORMATS)}, found {path}')
    if not path.is_file():
        raise FileNotFoundError(f'exported model not found: {path}')
    readers = dict(onnx=_onnx, torch_export=_torch_export, torchscript=_torchscript)
    try:
        return readers[FORMATS[path.suffix]](path)
    except (ImportError, _Foreign):
        raise
    except Exception as e:  # whatever a damaged file makes a reader raise
        raise ValueError(f'not a readable model: {path} ({" ".join(str(e).split())[:160]})'
                         ) from None


class _Foreign(ValueError):
    pass


def _meta(path: Path, text: Union[str, bytes, None]) -> Dict[str, Any]:
    if not text:
        raise _Foreign(f'{path}: no entry {KEY!r} in it; expected a file written by '
                       'tools/deploy/export.py')
    return json.loads(text)


def _onnx(path: Path) -> Exported:
    try:
        import onnxruntime
    except ImportError:
        raise ImportError('onnxruntime is needed to run *.onnx: pip install onnxruntime') from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options,
                                           providers=['CPUExecutionProvider'])
    meta = _meta(path, session.get_modelmeta().custom_metadata_map.get(KEY))
    names = [output.name for output in session.get_outputs()]
    wanted = {i.name for i in session.get_inputs()}

    def run(inputs: Dict[str, NDArray[Any]]) -> Dict[str, NDArray[Any]]:
        return dict(zip(names, session.run(names, {k: v for k, v in inputs.items()
                                                   if k in wanted})))

    return Exported(run, meta)


def _torch(call: Callable[..., Any], meta: Dict[str, Any]) -> Exported:
    import torch

    def run(inputs: Dict[str, NDArray[Any]]) -> Dict[str, NDArray[Any]]:
        with torch.no_grad():
            values: Any = call(*(torch.from_numpy(np.asarray(inputs[k])) for k in meta['inputs']))
        values = values if isinstance(values, (tuple, list)) else [values]
        return dict(zip(meta['outputs'], [v.numpy() for v in values]))

    return Exported(run, meta)


def _torch_export(path: Path) -> Exported:
    import torch
    import torchvision  # noqa: F401 - its operators are in the graphs of detectors
    extra: Dict[str, Any] = {KEY: ''}
    program = torch.export.load(str(path), extra_files=extra)
    return _torch(program.module(), _meta(path, extra[KEY]))


def _torchscript(path: Path) -> Exported:
    import torch
    import torchvision  # noqa: F401 - its operators are in the graphs of detectors
    extra: Dict[str, Any] = {KEY: ''}
    module = torch.jit.load(str(path), map_location='cpu', _extra_files=extra)
    return _torch(module, _meta(path, extra[KEY]))


def to_inputs(image: NDArray[Any], meta: Dict[str, Any], size: List[int],
              score_threshold: float = 0.05) -> Dict[str, NDArray[Any]]:
    """The inputs of a graph for one image.

    Args:
        image: ``(1, 3, H, W)`` uint8, RGB, of the graph's size.
        meta: Of the model.
        size: Height and width of the picture in it.
        score_threshold: Of detectors.
    """
    values = dict(image=image, size=np.asarray(size, np.int64),
                  score_threshold=np.asarray(score_threshold, np.float32))
    return {k: values[k] for k in meta['inputs']}
