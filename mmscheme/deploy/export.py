"""Models as files that run without their code: ONNX, torch.export and TorchScript."""
import json
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union

import cv2
import numpy as np
import torch
from mmengine import Config
from mmengine.utils import digit_version
from numpy.typing import NDArray
from torch import nn

from mmscheme.analysis.random_batch import input_shape, random_batch
from mmscheme.models.loading import load_model
from mmscheme.utils.config_query import inference_pipeline
from mmscheme.utils.output_files import check_not_read, replacing
from mmscheme.utils.quiet import quiet
from mmscheme.version import __version__

from .fold import fold
from .graphs import Graph, build_graph, replace_adaptive_pooling
from .matching import match_boxes
from .runtime import FORMATS, KEY, load_exported, to_inputs

__all__ = ['Check', 'check_exported', 'describe', 'export']

# Largest difference from PyTorch, relative to the largest output where that is over 1.
TOLERANCE = 1e-3
# Of labels, where two classes are as good as equal.
AGREEMENT = 0.9999
_DIVISOR = 32
_FEW = 10


class Check(NamedTuple):
    """A comparison of an exported file with the checkpoint in PyTorch.

    Attributes:
        difference: Largest difference of the outputs; of boxes in pixels.
        text: Both as a sentence.
        passed: True within the tolerance.
    """
    difference: float
    text: str
    passed: bool


def describe(cfg: Config, graph: Graph, meta: Dict[str, Any], shape: Tuple[int, int],
             dynamic: bool) -> Dict[str, Any]:
    """Return the description that an exported file carries, in JSON's types.

    Args:
        cfg: The config of the model.
        graph: What is exported.
        meta: Classes and palette.
        shape: Height and width of the input.
        dynamic: True where it takes other sizes, multiples of 32.

    Returns:
        ``task``, ``inputs`` and ``outputs`` by name, ``shape``, ``dynamic``, ``classes``,
        ``palette``, ``pipeline`` (what is done to an image file before), ``visualizer``,
        ``scope``, ``score_threshold`` of detectors, ``config``, ``mmscheme_version``.
    """
    mean = getattr(graph, 'mean', None)
    palette = meta.get('palette')
    palette = palette if palette is None or isinstance(palette, str) else np.asarray(
        palette).tolist()
    described = dict(
        task=graph.task, inputs=graph.inputs, outputs=graph.outputs, shape=shape, dynamic=dynamic,
        classes=meta.get('classes'), palette=palette,
        pipeline=inference_pipeline(cfg),
        fill=[114] * 3 if mean is None else [round(float(v)) for v in mean.flatten()],
        visualizer={k: v for k, v in (cfg.get('visualizer') or {}).items() if k != 'vis_backends'},
        scope=cfg.default_scope, config=Path(cfg.filename or '').name,
        score_threshold=(cfg.model.get('test_cfg') or {}).get('score_thr', 0.05),
        align_corners=bool(getattr(graph.model, 'align_corners', False)),
        mmscheme_version=__version__)
    try:
        # Sequences become lists, as they come back.
        return json.loads(json.dumps(described))
    except TypeError as e:
        raise ValueError(f'the test pipeline cannot be written into the file: {e}') from None


def export(cfg: Config, checkpoint: str, target: Union[str, Path],
           shape: Optional[Tuple[int, int]] = None, dynamic: bool = False
           ) -> Tuple[List[Check], Optional[str]]:
    """Export the deployment form of a checkpoint and check the file before it is kept.

    Args:
        cfg: The config of the checkpoint.
        checkpoint: File.
        target: ``*.onnx``, ``*.pt2`` for torch.export or ``*.pt`` for TorchScript.
        shape: Height and width of the input; by default what the config tests with.
        dynamic: Takes every batch size, height and width, these in multiples of 32.

    Returns:
        The checks on two images, and what is not in the file, or None.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ImportError: A package for this format is missing.
        ValueError: The model cannot be exported so, or the file does not do what the
            checkpoint does; then none is written.
    """
    target = Path(target)
    if target.suffix not in FORMATS:
        raise ValueError(f'expected a file {", ".join("*" + s for s in FORMATS)} to write, '
                         f'found {target}')
    check_not_read(target, checkpoint=checkpoint)
    model, meta = load_model(cfg, checkpoint)
    shape = shape or input_shape(cfg)
    folded = fold(model)
    graph, left_out = build_graph(folded, cfg.default_scope, shape)
    fixed = replace_adaptive_pooling(graph.model, graph, graph.example(shape))
    if dynamic:
        _refuse_dynamic(graph, fixed)
    description = describe(cfg, graph, meta, shape, dynamic)
    with replacing(target) as part:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            _write(graph, shape, part, description, dynamic)
        checks = check_exported(cfg, model, graph, part, shape)
        if dynamic:  # at a size that it was not traced with
            checks += check_exported(cfg, model, graph, part,
                                     (shape[0] + _DIVISOR, shape[1] + 2 * _DIVISOR))[:1]
        for check in checks:
            if not check.passed:
                raise ValueError(f'the exported model does not do what the checkpoint does, '
                                 f'nothing is written: {check.text}')
    return checks, left_out


def _refuse_dynamic(graph: Graph, fixed: List[str]) -> None:
    backbone = getattr(graph.model, 'backbone', None)
    if fixed:
        raise ValueError(f'--dynamic: {fixed[0]} pools to bins that depend on the size of the '
                         'input; export one size (--shape)')
    if getattr(backbone, 'pos_embed', None) is not None:
        raise ValueError('--dynamic: the position embedding of the backbone belongs to one size; '
                         'export one size (--shape)')
    if graph.task not in ('classification', 'segmentation'):
        raise ValueError(f'--dynamic: a graph for {graph.task} has one size (--shape)')


def _write(graph: Graph, shape: Tuple[int, int], path: Path, description: Dict[str, Any],
           dynamic: bool) -> None:
    example, text = graph.example(shape), json.dumps(description)
    if FORMATS[path.suffix] == 'torchscript':
        if dynamic:
            raise ValueError('--dynamic: tracing for TorchScript fixes the size; use onnx or '
                             'torch_export')
        module = torch.jit.trace(graph, example, check_trace=False)
        torch.jit.save(module, str(path), _extra_files={KEY: text})
        return
    free: Optional[Tuple[Dict[int, Any]]] = None
    if dynamic:
        side = torch.export.Dim
        free = ({0: side('batch', min=1, max=1024), 2: _DIVISOR * side('rows', min=1, max=128),
                 3: _DIVISOR * side('columns', min=1, max=128)}, )
        # Two images, because torch takes a size of one for a constant.
        example = (torch.cat([example[0]] * 2), *example[1:])
    if FORMATS[path.suffix] == 'onnx':
        _write_onnx(graph, example, path, description, free)
        return
    program = torch.export.export(graph, example, strict=False, dynamic_shapes=free)
    # As a file object, because torch wants its own suffix in the name of a path.
    with open(path, 'wb') as file:
        torch.export.save(program, file, extra_files={KEY: text})


def _write_onnx(graph: Graph, example: Tuple[torch.Tensor, ...], path: Path,
                description: Dict[str, Any], free: Optional[Tuple[Dict[int, Any]]]) -> None:
    try:
        import onnx
        import onnxruntime  # noqa: F401 - to check the file
        from onnx_ir.passes.common import NameFixPass  # of onnxscript
    except ImportError as e:
        raise ImportError(f'{e.name} is needed to export ONNX: '
                          'pip install onnx onnxscript onnxruntime') from None
    if free and digit_version(torch.__version__) < digit_version('2.7'):
        raise ValueError(f'--dynamic: the ONNX exporter of torch {torch.__version__} fails where '
                         'sizes are free; use a newer torch')
    program = torch.onnx.export(
        graph, example, dynamo=True, verbose=False, input_names=list(graph.inputs),
        output_names=list(graph.outputs), dynamic_shapes=free, external_data=False)
    NameFixPass()(program.model)  # torch 2.6 gives a name to several values
    proto = program.model_proto
    for key, value in ((KEY, description), ('classes', description['classes']),
                       ('inputs', description['inputs']), ('outputs', description['outputs'])):
        proto.metadata_props.add(key=key, value=json.dumps(value))
    onnx.checker.check_model(proto)
    onnx.save(proto, path)


def _test_images(shape: Tuple[int, int]) -> List[NDArray[Any]]:
    """Return noise, fine and coarse, as BGR images ``(H, W, 3)``."""
    rng = np.random.default_rng(0)
    fine = rng.integers(0, 256, (*shape, 3), np.uint8)
    coarse = rng.integers(0, 256, (-(-shape[0] // 32), -(-shape[1] // 32), 3), np.uint8)
    return [fine, cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)]


def check_exported(cfg: Config, model: nn.Module, graph: Graph, path: Path,
                   shape: Tuple[int, int]) -> List[Check]:
    """Compare a file with the model in PyTorch, by the framework's own prediction.

    Args:
        cfg: The config of the model.
        model: As it was trained, not folded.
        graph: Names and task of what was exported.
        path: The exported file.
        shape: Height and width of the images.

    Returns:
        A check for each of two images; for detectors the first is smaller than the input.
    """
    exported = load_exported(path)
    checks = []
    for i, image in enumerate(_test_images(shape)):
        if graph.task == 'detection':
            size = (shape[0] - 7, shape[1] - 13) if i == 0 else shape
            checks.append(_check_detector(cfg, model, exported, image, size, shape))
            continue
        batch = random_batch(cfg, shape, 1)
        batch['inputs'] = [torch.from_numpy(image).permute(2, 0, 1)]
        with torch.no_grad():
            checks.append(_check(graph.task, model, batch, exported.run(dict(image=_rgb(image)))))
    return checks


def _rgb(image: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(image[None, ..., ::-1].transpose(0, 3, 1, 2))


def _relative(ours: NDArray[Any], reference: torch.Tensor) -> float:
    expected = reference.numpy()
    if ours.shape != expected.shape:
        return float('inf')
    return float(np.abs(ours - expected).max() / max(1., np.abs(expected).max()))


def _check(task: str, model: nn.Module, batch: Dict[str, Any], found: Dict[str, NDArray[Any]]
           ) -> Check:
    if task == 'features':
        maps = model.extract_feat(model.data_preprocessor(batch, False)['inputs'])
        difference = max(_relative(found[f'p{i}'], m) for i, m in enumerate(maps))
        return Check(difference, f'features differ by {difference:.2g}', difference <= TOLERANCE)
    sample = model.test_step(batch)[0]
    if task == 'classification':
        difference = _relative(found['scores'][0], sample.pred_score)
        return Check(difference, f'scores differ by {difference:.2g}', difference <= TOLERANCE)
    difference = _relative(found['logits'][0], sample.seg_logits.data)
    same = float((found['labels'][0] == sample.pred_sem_seg.data[0].numpy()).mean())
    return Check(difference, f'logits differ by {difference:.2g}, {same:.3%} of the labels agree',
                 difference <= TOLERANCE and same >= AGREEMENT)


def _check_detector(cfg: Config, model: nn.Module, exported: Any, image: NDArray[Any],
                    size: Tuple[int, int], shape: Tuple[int, int]) -> Check:
    model = deepcopy(model)
    settings = model.bbox_head.test_cfg
    picture = image[:size[0], :size[1]]
    reference = predict_letterboxed(cfg, model, picture, shape)
    if len(reference.scores) < _FEW:
        # Noise has no objects: compare the best of what the model is not sure of.
        settings.score_thr = 0.
        settings.score_thr = _in_a_gap(predict_letterboxed(cfg, model, picture, shape).scores)
        reference = predict_letterboxed(cfg, model, picture, shape)
    ours = exported.run(to_inputs(_rgb(image), exported.meta, list(size),
                                  float(settings.score_thr)))
    match = match_boxes(ours, reference)
    return Check(match.difference, match.text(), match.difference <= 0.1 and not match.alone)


def _in_a_gap(scores: torch.Tensor) -> float:
    """Return a threshold below the best ten, far from the scores on both sides of it."""
    best = scores.sort(descending=True).values[_FEW - 1:5 * _FEW]
    if len(best) < 2:
        return 0.
    gap = int((best[:-1] / best[1:].clamp(min=1e-12)).argmax())
    return float((best[gap] + best[gap + 1]) / 2)


def predict_letterboxed(cfg: Config, model: nn.Module, image: NDArray[Any],
                        shape: Tuple[int, int]) -> Any:
    """Predict with mmdet itself for an image that is padded to a size.

    Args:
        cfg: The config of the model.
        model: A detector of mmdet.
        image: ``(H, W, 3)`` uint8, BGR, not larger than ``shape``.
        shape: Height and width after padding.

    Returns:
        The instances, boxes in pixels of the image.
    """
    # Batches are padded to their largest image.
    batch = random_batch(cfg, shape, 2)
    batch['inputs'][0] = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    batch['data_samples'][0].set_metainfo(dict(img_shape=image.shape[:2],
                                               ori_shape=image.shape[:2]))
    with torch.no_grad():
        return model.test_step(batch)[0].pred_instances
