"""Models as files that run without their code: ONNX, torch.export and TorchScript."""
import argparse
import json
import warnings
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple, Union

import cv2
import numpy as np
import torch
from mmengine import Config
from mmengine.structures import PixelData
from mmengine.utils import digit_version
from numpy.typing import NDArray
from torch import nn

from mmscheme.analysis.random_batch import input_shape, random_batch
from mmscheme.apis.config import load_config
from mmscheme.models.loading import load_model
from mmscheme.utils.cli import add_config_arguments
from mmscheme.utils.config_query import iter_datasets, step_name
from mmscheme.utils.output_files import check_not_read
from mmscheme.utils.quiet import quiet
from mmscheme.utils.user_errors import user_errors
from mmscheme.version import __version__

from .fold import fold
from .graphs import Graph, build_graph, replace_adaptive_pooling
from .matching import match_boxes
from .runtime import FORMATS, KEY, load_exported, to_inputs

__all__ = ['Check', 'check_exported', 'describe', 'export', 'main']

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
        text: For people.
        passed: Whether it is within the tolerance.
    """
    difference: float
    text: str
    passed: bool


def describe(cfg: Config, graph: Graph, meta: Dict[str, Any], shape: Tuple[int, int],
             dynamic: bool) -> Dict[str, Any]:
    """What an exported file says about itself, in JSON's types.

    Args:
        cfg: The config of the model.
        graph: What is exported.
        meta: Classes and palette.
        shape: Height and width of the input.
        dynamic: Whether other sizes are taken, multiples of 32.

    Returns:
        ``task``, ``inputs`` and ``outputs`` by name, ``shape``, ``dynamic``, ``classes``,
        ``palette``, ``pipeline`` (what is done to an image file before), ``visualizer``,
        ``scope``, ``score_threshold`` of detectors, ``config``, ``mmscheme_version``.
    """
    pipeline = []
    for dataset in iter_datasets(cfg, ('test', 'val')):
        pipeline = [s for s in dataset.get('pipeline') or []
                    if not step_name(s).endswith('Annotations')]
        break
    mean = getattr(graph, 'mean', None)
    palette = meta.get('palette')
    described = dict(
        task=graph.task, inputs=graph.inputs, outputs=graph.outputs, shape=shape, dynamic=dynamic,
        classes=meta.get('classes'), palette=palette if isinstance(palette, str) else
        None if palette is None else np.asarray(palette).tolist(), pipeline=pipeline,
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
    """Exports the deployment form of a checkpoint and checks the file before it is kept.

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
    if cfg.default_scope == 'mmseg' and model.test_cfg.get('mode', 'whole') != 'whole':
        raise ValueError(f'model.test_cfg.mode={model.test_cfg.mode}: one graph sees the whole '
                         'image; set it to whole')
    folded = fold(model)
    graph, left_out = build_graph(folded, cfg.default_scope, shape)
    fixed = replace_adaptive_pooling(graph.model, graph, graph.example(shape))
    if dynamic:
        _refuse_dynamic(graph, fixed)
    description = describe(cfg, graph, meta, shape, dynamic)
    part = target.with_name(f'.part-{target.name}')
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _quiet():
            _WRITERS[FORMATS[target.suffix]](graph, graph.example(shape), part, description,
                                             dynamic)
        checks = check_exported(cfg, model, graph, part, shape)
        if dynamic:  # at a size that it was not traced with
            checks += check_exported(cfg, model, graph, part,
                                     (shape[0] + _DIVISOR, shape[1] + 2 * _DIVISOR))[:1]
        for check in checks:
            if not check.passed:
                raise ValueError(f'the exported model does not do what the checkpoint does, '
                                 f'nothing is written: {check.text}')
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the chatter of exporters."""
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


def _dynamic_shapes(dynamic: bool) -> Optional[Tuple[Dict[int, Any]]]:
    if not dynamic:
        return None
    side = torch.export.Dim
    return ({0: side('batch', min=1, max=1024), 2: _DIVISOR * side('rows', min=1, max=128),
             3: _DIVISOR * side('columns', min=1, max=128)}, )


def _write_onnx(graph: Graph, example: Tuple[torch.Tensor, ...], path: Path,
                description: Dict[str, Any], dynamic: bool) -> None:
    for package in ('onnx', 'onnxscript', 'onnxruntime'):
        try:
            __import__(package)
        except ImportError:
            raise ImportError(f'{package} is needed to export ONNX: '
                              f'pip install onnx onnxscript onnxruntime') from None
    import onnx
    from onnx_ir.passes.common import NameFixPass  # of onnxscript
    if dynamic and digit_version(torch.__version__) < digit_version('2.7'):
        raise ValueError(f'--dynamic: the ONNX exporter of torch {torch.__version__} fails where '
                         'sizes are free; use a newer torch')
    program = torch.onnx.export(
        graph, _two_of(example, dynamic), dynamo=True, verbose=False,
        input_names=list(graph.inputs), output_names=list(graph.outputs),
        dynamic_shapes=_dynamic_shapes(dynamic), external_data=False)
    NameFixPass()(program.model)  # torch 2.6 gives a name to several values
    proto = program.model_proto
    for key, value in ((KEY, description), ('classes', description['classes']),
                       ('inputs', description['inputs']), ('outputs', description['outputs'])):
        proto.metadata_props.add(key=key, value=json.dumps(value))
    onnx.checker.check_model(proto)
    onnx.save(proto, path)


def _write_torch_export(graph: Graph, example: Tuple[torch.Tensor, ...], path: Path,
                        description: Dict[str, Any], dynamic: bool) -> None:
    program = torch.export.export(graph, _two_of(example, dynamic), strict=False,
                                  dynamic_shapes=_dynamic_shapes(dynamic))
    # torch wants its own suffix in the name of what it writes.
    with open(path, 'wb') as file:
        torch.export.save(program, file, extra_files={KEY: json.dumps(description)})


def _write_torchscript(graph: Graph, example: Tuple[torch.Tensor, ...], path: Path,
                       description: Dict[str, Any], dynamic: bool) -> None:
    if dynamic:
        raise ValueError('--dynamic: tracing for TorchScript fixes the size; use onnx or '
                         'torch_export')
    module = torch.jit.trace(graph, example, check_trace=False)
    torch.jit.save(module, str(path), _extra_files={KEY: json.dumps(description)})


_WRITERS = dict(onnx=_write_onnx, torch_export=_write_torch_export,
                torchscript=_write_torchscript)


def _two_of(example: Tuple[torch.Tensor, ...], dynamic: bool) -> Tuple[torch.Tensor, ...]:
    """A batch of two where its size is free: torch takes a size of one for a constant."""
    return (torch.cat([example[0]] * 2), *example[1:]) if dynamic else example


def _test_images(shape: Tuple[int, int]) -> List[NDArray[Any]]:
    """Noise, fine and coarse, as BGR images ``(H, W, 3)``."""
    rng = np.random.default_rng(0)
    fine = rng.integers(0, 256, (*shape, 3), np.uint8)
    coarse = rng.integers(0, 256, (-(-shape[0] // 32), -(-shape[1] // 32), 3), np.uint8)
    return [fine, cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)]


def check_exported(cfg: Config, model: nn.Module, graph: Graph, path: Path,
                   shape: Tuple[int, int]) -> List[Check]:
    """Compares a file with the model in PyTorch, by the framework's own prediction.

    Args:
        cfg: The config of the model.
        model: As it was trained, not folded.
        graph: Names and task of what was exported.
        path: The exported file.
        shape: Height and width of the images.

    Returns:
        A check for each of two images; for detectors the first is smaller than the input.
    """
    suffix = path.suffix
    exported = load_exported(path) if suffix in FORMATS else None
    assert exported is not None
    checks = []
    for i, image in enumerate(_test_images(shape)):
        if graph.task == 'detection':
            size = (shape[0] - 7, shape[1] - 13) if i == 0 else shape
            checks.append(_check_detector(cfg, model, exported, image, size, shape))
            continue
        batch = random_batch(cfg, shape, 1)
        batch['inputs'] = [torch.from_numpy(image).permute(2, 0, 1)]
        rgb = np.ascontiguousarray(image[None, ..., ::-1].transpose(0, 3, 1, 2))
        found = exported.run(dict(image=rgb))
        with torch.no_grad():
            checks.append(_CHECKS[graph.task](model, batch, found))
    return checks


def _relative(ours: NDArray[Any], reference: torch.Tensor) -> float:
    expected = reference.numpy()
    if ours.shape != expected.shape:
        return float('inf')
    return float(np.abs(ours - expected).max() / max(1., np.abs(expected).max()))


def _check_classifier(model: nn.Module, batch: Dict[str, Any], found: Dict[str, NDArray[Any]]
                      ) -> Check:
    scores = model.test_step(batch)[0].pred_score
    difference = _relative(found['scores'][0], scores)
    return Check(difference, f'scores differ by {difference:.2g}', difference <= TOLERANCE)


def _check_segmenter(model: nn.Module, batch: Dict[str, Any], found: Dict[str, NDArray[Any]]
                     ) -> Check:
    sample = model.test_step(batch)[0]
    logits: PixelData = sample.seg_logits
    difference = _relative(found['logits'][0], logits.data)
    same = float((found['labels'][0] == sample.pred_sem_seg.data[0].numpy()).mean())
    return Check(difference, f'logits differ by {difference:.2g}, {same:.3%} of the labels agree',
                 difference <= TOLERANCE and same >= AGREEMENT)


def _check_features(model: nn.Module, batch: Dict[str, Any], found: Dict[str, NDArray[Any]]
                    ) -> Check:
    maps = model.extract_feat(model.data_preprocessor(batch, False)['inputs'])
    difference = max(_relative(found[f'p{i}'], m) for i, m in enumerate(maps))
    return Check(difference, f'features differ by {difference:.2g}', difference <= TOLERANCE)


_CHECKS = dict(classification=_check_classifier, segmentation=_check_segmenter,
               features=_check_features)


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
    ours = exported.run(_letterboxed(image, size, exported.meta, float(settings.score_thr)))
    match = match_boxes(ours, reference)
    return Check(match.difference, match.text(), match.difference <= 0.1 and not match.alone)


def _in_a_gap(scores: torch.Tensor) -> float:
    """A threshold far from the scores on both sides of it, below the best ten."""
    best = scores.sort(descending=True).values[_FEW - 1:5 * _FEW]
    if len(best) < 2:
        return 0.
    gap = int((best[:-1] / best[1:].clamp(min=1e-12)).argmax())
    return float((best[gap] + best[gap + 1]) / 2)


def _letterboxed(image: NDArray[Any], size: Tuple[int, int], meta: Dict[str, Any],
                 threshold: float) -> Dict[str, NDArray[Any]]:
    rgb = np.ascontiguousarray(image[None, ..., ::-1].transpose(0, 3, 1, 2))
    return to_inputs(rgb, meta, list(size), threshold)


def predict_letterboxed(cfg: Config, model: nn.Module, image: NDArray[Any],
                        shape: Tuple[int, int]) -> Any:
    """mmdet's own prediction for an image that is padded to a size.

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


def main(argv: Optional[List[str]] = None) -> None:
    """The command line of ``tools/deploy/export.py``."""
    parser = argparse.ArgumentParser(
        description='Export the deployment form of a checkpoint. The file is run and compared '
        'with PyTorch before it is kept.')
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='file written by training')
    parser.add_argument('--format', choices=sorted(FORMATS.values()), default='onnx')
    parser.add_argument('--out', metavar='FILE', help='file to write (the checkpoint with another '
                        'suffix: .onnx, .pt2 for torch_export, .pt for torchscript)')
    parser.add_argument('--shape', type=int, nargs='+', metavar='N',
                        help='height and width of the input, or one number for both (default: '
                        'what the config trains or tests with); images that do not fit are shrunk')
    parser.add_argument('--dynamic', action='store_true',
                        help='any batch, height and width, these in multiples of 32')
    args = parser.parse_args(argv)
    with user_errors(args.debug):
        suffix = {v: k for k, v in FORMATS.items()}[args.format]
        target = Path(args.out) if args.out else Path(args.checkpoint).with_suffix(suffix)
        if target.suffix != suffix:
            raise ValueError(f'--out: expected a file *{suffix} for {args.format}, found {target}')
        shape = None
        if args.shape:
            if len(args.shape) > 2 or min(args.shape) < 32:
                raise ValueError(f'--shape: expected one or two sizes of 32 pixels or more, found '
                                 f'{args.shape}')
            shape = (args.shape[0], args.shape[-1])
        cfg = load_config(args.config, cfg_options=args.cfg_options, data_root=args.data_root)
        print('tracing the model and comparing it with PyTorch ...', flush=True)
        checks, left_out = export(cfg, args.checkpoint, target, shape, args.dynamic)
    if left_out:
        print(f'note: {left_out}')
    for i, check in enumerate(checks):
        print(f'check {i + 1}: {check.text}')
    print(f'largest difference: {max(c.difference for c in checks):.2g}\n'
          f'{target} ({target.stat().st_size / 2**20:.1f} MiB)')
