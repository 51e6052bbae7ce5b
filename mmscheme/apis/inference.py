"""Pictures and videos with what a model finds in them."""
import contextlib
import copy
import io
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

import cv2
import mmcv
from mmengine import Config
from mmengine.registry import TRANSFORMS, init_default_scope
from mmengine.utils import ProgressBar
from numpy.typing import NDArray

from mmscheme.models.loading import load_model
from mmscheme.utils.config_query import find_class, scope_of, step_name
from mmscheme.utils.image_jobs import Job, read_image, run_jobs
from mmscheme.utils.output_files import replacing
from mmscheme.visualization.predictions import draw_prediction, make_visualizer

__all__ = ['load_predictor', 'predict']


def load_predictor(cfg: Config, checkpoint: str, device: Optional[str] = None,
                   score_thr: float = 0.3, opacity: float = 0.6
                   ) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Build a function from an image to a picture of what the model finds, both BGR.

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
    """Give steps their bare names, because the inferencers look some up and know no other."""
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
    """Write a picture or video for each job, with progress.

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
    writer: Optional[cv2.VideoWriter] = None
    with replacing(job.target) as part:
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
        finally:
            if writer is not None:
                writer.release()
