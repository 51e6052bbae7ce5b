"""Exported files in onnxruntime and OpenVINO, to be timed: on the CPU, computing in float32."""
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

import numpy as np
from numpy.typing import NDArray

from .runtime import RUNTIMES, compile_openvino, load_exported, onnx_session, to_inputs

__all__ = ['RUNTIMES', 'open_in', 'operator_times', 'random_inputs']


def random_inputs(path: Union[str, Path], batch: int, size: Optional[Tuple[int, int]]
                  ) -> Dict[str, NDArray[Any]]:
    """Return inputs of noise for a file.

    Args:
        path: A ``*.onnx`` file of ``tools/deploy/export.py``.
        batch: Images, where the file leaves their number free.
        size: Height and width, where the file leaves them free; by default what it was exported
            with.

    Raises:
        ValueError: It is not such a file, or has another size.
    """
    if Path(path).suffix != '.onnx':
        raise ValueError(f'expected files *.onnx, found {path}')
    meta = load_exported(path).meta
    shape = tuple(meta['shape'])
    if size and size != shape and not meta['dynamic']:
        raise ValueError(f'{path}: takes images of {shape[0]}x{shape[1]}, found --size '
                         f'{size[0]} {size[1]}')
    height, width = size or shape
    images = batch if meta['dynamic'] else meta['batch']
    noise = np.random.default_rng(0).integers(
        0, 256, (images, meta.get('channels', 3), height, width), np.uint8)
    return to_inputs(noise.astype(meta.get('dtype', 'uint8')), meta, [height, width])


def open_in(runtime: str, path: Union[str, Path], inputs: Dict[str, NDArray[Any]], threads: int
            ) -> Callable[[], Any]:
    """Return a call that runs a file once.

    Args:
        runtime: One of :data:`RUNTIMES`.
        path, inputs: The file, and what it gets.
        threads: Threads of the runtime.

    Raises:
        ImportError: The runtime is not installed.
    """
    if runtime == 'onnxruntime':
        session = onnx_session(path, threads)
        feeds = {i.name: inputs[i.name] for i in session.get_inputs()}
        return lambda: session.run(None, feeds)
    request, values = _request(path, inputs, threads)
    return lambda: request.infer(values)


def _request(path: Union[str, Path], inputs: Dict[str, NDArray[Any]], threads: int,
             profile: bool = False) -> Tuple[Any, List[NDArray[Any]]]:
    compiled = compile_openvino(path, INFERENCE_NUM_THREADS=threads, NUM_STREAMS=1,
                                PERF_COUNT=profile)
    return compiled.create_infer_request(), [inputs[i.any_name] for i in compiled.inputs]


def operator_times(runtime: str, path: Union[str, Path], inputs: Dict[str, NDArray[Any]],
                   threads: int, rounds: int) -> Dict[str, float]:
    """Return the seconds that a file spends in each kind of operator, most first.

    The sum over the operators of a kind of the median over the rounds of each. Profiling takes
    time itself.
    """
    kinds: Dict[str, str] = {}
    times: Dict[str, List[float]] = defaultdict(list)
    if runtime == 'onnxruntime':
        with tempfile.TemporaryDirectory() as folder:
            session = onnx_session(path, threads, str(Path(folder) / 'profile'))
            feeds = {i.name: inputs[i.name] for i in session.get_inputs()}
            for _ in range(rounds + 1):
                session.run(None, feeds)
            events = json.loads(Path(session.end_profiling()).read_text())
        for event in events:
            if event.get('cat') == 'Node' and event['name'].endswith('_kernel_time'):
                kinds[event['name']] = event['args']['op_name']
                times[event['name']].append(event['dur'] / 1e6)
    else:
        request, values = _request(path, inputs, threads, True)
        for _ in range(rounds + 1):
            request.infer(values)
            for node in request.profiling_info:
                kinds[node.node_name] = f'{node.node_type} ({node.exec_type})'
                times[node.node_name].append(node.real_time.total_seconds())
    sums: Dict[str, float] = defaultdict(float)
    for name, seconds in times.items():
        sums[kinds[name]] += median(seconds[1:] or seconds)
    return dict(sorted(sums.items(), key=lambda item: -item[1]))
