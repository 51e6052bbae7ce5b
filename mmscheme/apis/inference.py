"""Pictures and videos with what a model finds in them."""
import argparse
import contextlib
import copy
import io
import warnings
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

import cv2
import mmcv
import numpy as np
from mmengine import Config
from mmengine.registry import TRANSFORMS, VISUALIZERS, init_default_scope
from mmengine.utils import ProgressBar
from numpy.typing import NDArray

from mmscheme.models.loading import load_model
from mmscheme.utils.cli import add_config_arguments, add_drawing_arguments
from mmscheme.utils.config_query import find_class, scope_of, step_name
from mmscheme.utils.image_jobs import Job, find_jobs, read_image, report, run_jobs
from mmscheme.utils.user_errors import user_errors

from .config import load_config

__all__ = ['draw_prediction', 'load_predictor', 'main', 'make_visualizer', 'predict']


def make_visualizer(settings: Optional[Dict[str, Any]], meta: Dict[str, Any], scope: str) -> Any:
    """A visualizer of the task's framework that draws and stores nothing.

    Args:
        settings: ``visualizer`` of a config.
        meta: Classes and palette; colours are random where there is none.
        scope: The framework; initialised already.

    Returns:
        The visualizer.
    """
    types = dict(mmseg='SegLocalVisualizer', mmdet='DetLocalVisualizer',
                 mmpretrain='UniversalVisualizer')
    if scope not in types:
        raise ValueError(f'default_scope: expected one of {sorted(types)}, found {scope!r}')
    if meta.get('classes') is None:
        raise ValueError('the names of the classes are neither in the model nor in the config')
    visualizer = VISUALIZERS.build(dict(settings or dict(type=types[scope]), name='predict',
                                        vis_backends=None))
    palette = meta.get('palette')
    if palette is None and scope == 'mmseg':
        rng = np.random.default_rng(0)
        palette = rng.integers(0, 256, (len(meta['classes']), 3)).tolist()
    visualizer.dataset_meta = dict(classes=tuple(meta['classes']),
                                   palette='random' if palette is None else palette if
                                   isinstance(palette, str) else [tuple(c) for c in palette])
    return visualizer


def draw_prediction(visualizer: Any, image: NDArray[Any], sample: Any, scope: str,
                    score_thr: float = 0.3, opacity: float = 0.6) -> NDArray[Any]:
    """Draws what a model found into an image.

    Args:
        visualizer: Of :func:`make_visualizer`.
        image: ``(H, W, 3)`` uint8, BGR.
        sample: The prediction, at the size of the image.
        scope: The framework.
        score_thr: Lowest score of a box that is drawn.
        opacity: Of the colours of a segmentation, in [0, 1].

    Returns:
        The picture, BGR.
    """
    rgb = np.ascontiguousarray(image[..., ::-1])
    if scope == 'mmseg':
        visualizer.alpha = opacity
        visualizer.add_datasample('prediction', rgb, sample.cpu(), draw_gt=False)
    elif scope == 'mmdet':
        visualizer.add_datasample('prediction', rgb, sample.cpu(), draw_gt=False,
                                  pred_score_thr=score_thr)
    else:
        visualizer.visualize_cls(rgb, sample.cpu(), draw_gt=False,
                                 classes=visualizer.dataset_meta['classes'])
    return np.ascontiguousarray(visualizer.get_image()[..., ::-1])


def load_predictor(cfg: Config, checkpoint: str, device: Optional[str] = None,
                   score_thr: float = 0.3, opacity: float = 0.6
                   ) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """The inferencer of the config's framework, from an image to a picture, both BGR.

    Args:
        cfg: A config of mmsegmentation, mmdetection or mmpretrain.
        checkpoint: File.
        device: As torch names it; the GPU where there is one by default.
        score_thr, opacity: See :func:`draw_prediction`.

    Returns:
        The function.

    Raises:
        FileNotFoundError, ValueError: The checkpoint is missing, or of another model.
    """
    scope = scope_of(cfg)
    # The inferencers only warn when weights do not fit.
    _, meta = load_model(cfg, checkpoint)
    init_default_scope(scope)
    visualizer = make_visualizer(cfg.get('visualizer'), meta, scope)
    with contextlib.redirect_stdout(io.StringIO()):
        infer = _inferencer(cfg, checkpoint, scope, device)

    def picture(image: NDArray[Any]) -> NDArray[Any]:
        # mmpretrain draws a progress bar for each image.
        with contextlib.redirect_stdout(io.StringIO()):
            if scope == 'mmdet':
                found = infer(image, return_datasamples=True, no_save_vis=True)['predictions']
            elif scope == 'mmseg':
                found = infer(image, return_datasamples=True)
            else:
                found = infer(image, return_datasamples=True)
        sample = found[0] if isinstance(found, (list, tuple)) else found
        return draw_prediction(visualizer, image, sample, scope, score_thr, opacity)

    return picture


def _use_bare_names(pipeline: Sequence[Dict[str, Any]]) -> None:
    """The inferencers look for the bare names of some steps and know no other."""
    for step in pipeline:
        bare = step_name(step)
        if find_class(TRANSFORMS, bare) is find_class(TRANSFORMS, step['type']):
            step['type'] = bare


def _inferencer(cfg: Config, checkpoint: str, scope: str, device: Optional[str]) -> Any:
    cfg = copy.deepcopy(cfg)
    _use_bare_names(cfg.test_dataloader.dataset.get('pipeline') or ())
    if scope == 'mmseg':
        from mmseg.apis import MMSegInferencer
        infer = MMSegInferencer(cfg, weights=checkpoint, device=device)
    elif scope == 'mmdet':
        from mmdet.apis import DetInferencer
        infer = DetInferencer(cfg, weights=checkpoint, device=device)
    else:
        from mmpretrain.apis import ImageClassificationInferencer
        infer = ImageClassificationInferencer(cfg, pretrained=checkpoint, device=device)
    infer.show_progress = False
    return infer


def _frames(video: mmcv.VideoReader) -> Iterator[NDArray[Any]]:
    for frame in video:
        if frame is None:  # the header promised more
            return
        yield frame


def predict(picture: Callable[[NDArray[Any]], NDArray[Any]], jobs: Sequence[Job],
            debug: bool = False) -> List[str]:
    """Writes a picture or video for each job, with progress.

    Args:
        picture: From an image to its picture, both BGR.
        jobs: What to read and to write.
        debug: See :func:`mmscheme.utils.image_jobs.run_jobs`.

    Returns:
        What could not be done, a line each; the others are done.
    """

    def label(job: Job, bar: ProgressBar) -> None:
        if job.video:
            _label_video(picture, job, bar)
        else:
            mmcv.imwrite(picture(read_image(job.source)), str(job.target))

    return run_jobs(label, jobs, debug)


def _label_video(picture: Callable[[NDArray[Any]], NDArray[Any]], job: Job, bar: ProgressBar
                 ) -> None:
    video = mmcv.VideoReader(str(job.source))
    part = job.target.with_name(f'.part-{job.target.name}')
    writer: Optional[cv2.VideoWriter] = None
    try:
        for frame in _frames(video):
            drawn = picture(frame)
            if writer is None:
                rate = video.fps if video.fps and video.fps > 0 else 25.
                writer = cv2.VideoWriter(str(part), cv2.VideoWriter.fourcc(*'mp4v'), rate,
                                         drawn.shape[1::-1])
                if not writer.isOpened():
                    raise OSError(f'this OpenCV cannot write videos (mp4v): {job.target}')
            writer.write(drawn)
            bar.update()
        if writer is None:
            raise ValueError(f'no frames in the video: {job.source}')
        writer.release()
        part.replace(job.target)
    finally:
        if writer is not None:
            writer.release()
        part.unlink(missing_ok=True)


def main(argv: Optional[List[str]] = None) -> None:
    """The command line of ``tools/predict.py``."""
    parser = argparse.ArgumentParser(
        description='Draw what a model finds into images and videos.')
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='file written by training or by tools/deploy/fold.py')
    parser.add_argument('inputs', nargs='+', metavar='INPUT', help='image, video or folder')
    add_drawing_arguments(parser)
    parser.add_argument('--device', help='as torch names it (the GPU where there is one)')
    args = parser.parse_args(argv)
    warnings.filterwarnings('ignore', category=UserWarning)
    with user_errors(args.debug):
        jobs = find_jobs(args.inputs, args.out)
        cfg = load_config(args.config, cfg_options=args.cfg_options, data_root=args.data_root)
        picture = load_predictor(cfg, args.checkpoint, args.device, args.score_thr, args.opacity)
        problems = predict(picture, jobs, args.debug)
    report(jobs, problems, args.out)
