"""A page about a test: one HTML file that needs nothing beside it."""
import base64
import json
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple, Union

import cv2
import numpy as np
import torch
from mmengine import Config
from mmengine.utils.dl_utils import collect_env
from numpy.typing import NDArray

from mmscheme.engine.hooks.mixing_weights_hook import describe_cca_weights, find_mixers, shorten
from mmscheme.engine.hooks.report_hook import OVERLAP, SCORE, ImageResult, ReportHook
from mmscheme.utils.config_query import inference_pipeline
from mmscheme.utils.output_files import write_bytes
from mmscheme.version import __version__
from mmscheme.visualization.images import ImageReader
from mmscheme.visualization.pictures import overlay_labels
from mmscheme.visualization.predictions import make_visualizer

from .complexity import COUNTER, count_config
from .throughput import device_name

__all__ = ['write_report']

_TEMPLATE = Path(__file__).with_name('report.html')
_MIN_WIDTH, _MAX_WIDTH = 600, 800
# More would make a page that nobody can scroll.
_MAX_CONFUSED = 80


def write_report(out_dir: Union[str, Path], cfg: Config, checkpoint: str, hook: ReportHook,
                 model: torch.nn.Module, kept: Optional[Dict[str, Any]] = None) -> Path:
    """Write the report of a test.

    Args:
        out_dir: Folder; the page is ``report.html`` in it.
        cfg: The config that was tested.
        checkpoint: What was tested, by name.
        hook: The hook that watched the test.
        model: What was tested.
        kept: Metrics of a second test, with CCA kept.

    Returns:
        The file.
    """
    classes = list(hook.meta['classes'])
    palette = _palette(hook.meta.get('palette'), len(classes))
    make = _seg_table if hook.scope == 'mmseg' else _det_table
    columns, rows, rows_note, own = make(hook, classes)
    metrics = {k: _plain(v) for k, v in hook.metrics.items() if k not in own}
    parts, cost_note = _cost(cfg)
    data = dict(
        title=f'{Path(cfg.filename or "config").stem}: {Path(checkpoint).name}',
        made=f'{hook.images} images, {time.strftime("%Y-%m-%d %H:%M")}, mmscheme {__version__}',
        cards=_cards(hook, metrics), metrics=metrics,
        kept=None if kept is None else {k: _plain(v) for k, v in kept.items() if k in metrics},
        columns=columns, rows=rows, rows_note=rows_note,
        colours=dict(zip(classes, [', '.join(map(str, c)) for c in palette])),
        confusion=_confusion(hook, classes), images=list(_images(hook, cfg, palette)),
        image_score='mean IoU' if hook.scope == 'mmseg' else 'F1', images_note=_IMAGE_NOTES[
            hook.scope],
        mixing=_mixing(model), parts=parts, cost_note=cost_note, speed=_speed(hook, cfg),
        config=cfg.pretty_text, environment={k: str(v) for k, v in collect_env().items()})
    # Inside a script element the end of one must not occur.
    text = json.dumps(data, allow_nan=False).replace('<', '\\u003c')
    path = Path(out_dir) / 'report.html'
    write_bytes(path, _TEMPLATE.read_text(encoding='utf-8').replace('__DATA__', text).encode())
    return path


_IMAGE_NOTES = dict(
    mmseg='By the mean IoU of the classes in the ground truth or the prediction of an image. '
    'The slider moves between prediction and ground truth.',
    mmdet=f'By F1 of the boxes with a score of at least {SCORE} and an IoU of at least {OVERLAP}. '
    'The slider moves between prediction and ground truth.')


def _plain(value: Any) -> Any:
    """Return a number or text that JSON has; None for what is not finite."""
    if isinstance(value, (int, float, np.number)):
        return round(float(value), 6) if np.isfinite(value) else None
    return str(value)


def _palette(palette: Any, number: int) -> List[List[int]]:
    if palette is None or isinstance(palette, str):
        palette = np.random.default_rng(0).integers(40, 220, (number, 3))
    return [[int(v) for v in colour] for colour in palette]


def _cards(hook: ReportHook, metrics: Dict[str, Any]) -> List[Tuple[str, Any]]:
    """Return the few numbers that people look for first."""
    wanted = [k for k in metrics if k.split('/')[-1] in (
        'mIoU', 'mAcc', 'aAcc', 'bbox_mAP', 'segm_mAP', 'bbox_mAP_50')]
    return [*((k.split('/')[-1], metrics[k]) for k in wanted or list(metrics)[:3]),
            ('images', hook.images)]


_Table = Tuple[List[str], List[List[Any]], str, List[str]]


def _share(part: Any, whole: Any) -> Optional[float]:
    return round(float(100 * part / whole), 2) if whole else None


def _seg_table(hook: ReportHook, classes: List[str]) -> _Table:
    columns = ['class', 'IoU', 'accuracy', 'precision', 'share of pixels']
    note = 'In %, over all images.'
    c = np.zeros((len(classes), ) * 2) if hook.confusion is None else hook.confusion
    right, truth, predicted = c.diagonal(), c.sum(1), c.sum(0)
    rows = [[name, _share(right[i], truth[i] + predicted[i] - right[i]),
             _share(right[i], truth[i]), _share(right[i], predicted[i]),
             _share(truth[i], c.sum())]
            for i, name in enumerate(classes) if truth[i] + predicted[i]]
    return columns, rows, note, []


def _det_table(hook: ReportHook, classes: List[str]) -> _Table:
    precisions = {name: f'coco/{name}_precision' for name in classes}
    own = [k for k in precisions.values() if k in hook.metrics]
    kind = 'mask AP' if 'coco/segm_mAP' in hook.metrics else 'AP'
    columns = ['class', kind, 'objects', 'found', 'recall', 'precision']
    note = (f'{kind} as COCO defines it; the other columns count boxes with a score of at least '
            f'{SCORE} and an IoU of at least {OVERLAP}; recall and precision in %.')
    c = np.zeros((len(classes) + 1, ) * 2) if hook.confusion is None else hook.confusion
    rows = []
    for i, name in enumerate(classes):
        truth, found, right = int(c[i].sum()), int(c[:, i].sum()), c[i, i]
        if truth + found:
            rows.append([name, _plain(hook.metrics.get(precisions[name], np.nan)), truth, found,
                         _share(right, truth), _share(right, found)])
    return columns, rows, note, own


def _confusion(hook: ReportHook, classes: List[str]) -> Optional[Dict[str, Any]]:
    if hook.confusion is None:
        return None
    labels = [*classes, 'background'] if hook.scope == 'mmdet' else classes
    totals = hook.confusion.sum(0) + hook.confusion.sum(1)
    shown = np.flatnonzero(totals)
    note = 'Rows: ground truth; columns: predictions; colours: share of the row.'
    if len(shown) > _MAX_CONFUSED:
        shown = np.sort(np.argsort(-totals, kind='stable')[:_MAX_CONFUSED])
        note += f' Only the {_MAX_CONFUSED} most frequent classes are shown.'
    if hook.scope == 'mmdet':
        note += ' Background as a row: there is no object; as a column: none was found.'
    return dict(labels=[labels[i] for i in shown], note=note,
                counts=hook.confusion[np.ix_(shown, shown)].tolist())


def _images(hook: ReportHook, cfg: Config, palette: List[List[int]]) -> Iterator[Dict[str, Any]]:
    read = ImageReader(inference_pipeline(cfg))
    for kind, results in (('worst', hook.worst), ('best', hook.best)):
        for result in results:
            image = read(result.path)
            draw = _draw_labels if hook.scope == 'mmseg' else _draw_boxes
            zoom = max(1, -(-_MIN_WIDTH // image.shape[1]))
            predicted, truth = map(_data_uri, draw(image, result, zoom, hook, cfg, palette))
            yield dict(kind=kind, name=Path(result.path).name, score=result.score,
                       prediction=predicted, truth=truth)


def _data_uri(picture: Optional[NDArray[Any]]) -> Optional[str]:
    if picture is None:
        return None
    if picture.shape[1] > _MAX_WIDTH:
        size = (_MAX_WIDTH, round(picture.shape[0] * _MAX_WIDTH / picture.shape[1]))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, 88])
    return 'data:image/jpeg;base64,' + base64.b64encode(data.tobytes()).decode()


def _draw_labels(image: NDArray[Any], result: ImageResult, zoom: int, hook: ReportHook,
                 cfg: Config, palette: List[List[int]]) -> List[Optional[NDArray[Any]]]:
    maps = (result.sample['predicted'], result.sample['truth'])
    return [None if labels is None else
            cv2.resize(overlay_labels(image, labels, palette), None, fx=zoom, fy=zoom,
                       interpolation=cv2.INTER_NEAREST) for labels in maps]


def _draw_boxes(image: NDArray[Any], result: ImageResult, zoom: int, hook: ReportHook,
                cfg: Config, palette: List[List[int]]) -> List[Optional[NDArray[Any]]]:
    large = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    rgb = np.ascontiguousarray(large[..., ::-1])
    settings = {k: v for k, v in (cfg.get('visualizer') or {}).items() if k != 'line_width'}
    visualizer = make_visualizer({**settings, 'line_width': 2} if settings else None,
                                 dict(classes=hook.meta['classes'], palette=palette), 'mmdet')
    sample = result.sample
    drawn: List[Optional[NDArray[Any]]] = []
    for key, flags in (('pred_instances', dict(draw_gt=False)),
                       ('gt_instances', dict(draw_pred=False))):
        if key not in sample:
            drawn.append(None)
            continue
        instances = sample.get(key)
        boxes = instances.bboxes
        instances.bboxes = (boxes.tensor if hasattr(boxes, 'tensor') else boxes) * zoom
        if 'masks' in instances:
            masks = instances.masks
            masks = masks.to_ndarray() if hasattr(masks, 'to_ndarray') else masks.numpy()
            instances.masks = masks.astype(bool).repeat(zoom, 1).repeat(zoom, 2)
        visualizer.add_datasample('report', rgb, sample, pred_score_thr=SCORE, **flags)
        drawn.append(np.ascontiguousarray(visualizer.get_image()[..., ::-1]))
    return drawn


def _mixing(model: torch.nn.Module) -> Dict[str, Any]:
    mixers = find_mixers(model)
    if not mixers:
        return dict(text='The model has no SCHEME mixer with CCA.', blocks=[])
    text = describe_cca_weights(mixers).split(';')[0].split(': its weight is below')[0]
    weights = [1 - float(m.alpha.detach()) for m in mixers.values()]
    return dict(text=text, blocks=list(zip(shorten(list(mixers)), weights)))


def _cost(cfg: Config) -> Tuple[List[Tuple[str, int, int]], str]:
    try:
        cost = count_config(cfg)
    except (ValueError, NotImplementedError) as e:
        return [], f'Not counted: {e}'
    return ([(name, part.params, part.macs) for name, part in cost.parts.items()],
            f'One image of {cost.shape[0]}x{cost.shape[1]} (height x width), in evaluation. '
            f'{COUNTER}')


def _speed(hook: ReportHook, cfg: Config) -> str:
    device = device_name(torch.device('cuda' if torch.cuda.is_available() else 'cpu'))
    device += '' if torch.cuda.is_available() else f', {torch.get_num_threads()} threads'
    if not hook.speed.get('time'):
        return f'Not measured ({device}).'
    batch = cfg.test_dataloader.get('batch_size', 1)
    return (f'{batch / hook.speed["time"]:.2f} images/s per process in this test, all included: '
            f'{1000 * hook.speed["time"]:.0f} ms for a batch of {batch}, of which '
            f'{1000 * hook.speed.get("data_time", 0):.0f} ms waiting for data ({device}).')
