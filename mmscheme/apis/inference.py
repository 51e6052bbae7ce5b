"""Draw a model's predictions into images and videos."""
from typing import Any, Callable, Iterator, List, Optional, Sequence

import cv2
import mmcv
import numpy as np
import torch
from mmengine import Config
from mmengine.dataset import Compose
from mmengine.utils import ProgressBar
from numpy.typing import NDArray

from mmscheme.models.loading import load_model
from mmscheme.utils.config_query import inference_pipeline, scope_of, step_name
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
    model, meta = load_model(cfg, checkpoint)
    model.to(device or ('cuda' if torch.cuda.is_available() else 'cpu'))
    visualizer = make_visualizer(cfg.get('visualizer'), meta, scope)
    steps = inference_pipeline(cfg)
    loaders = [step for step in steps if step_name(step) == 'LoadImageFromFile']
    if not loaders:
        raise ValueError('test_pipeline: expected a LoadImageFromFile to replace, found none')
    dtype = np.float32 if loaders[0].get('to_float32') else np.uint8
    pipeline = Compose([step for step in steps if step not in loaders])

    def picture(image: NDArray[Any]) -> NDArray[Any]:
        size = image.shape[:2]
        data = pipeline(dict(img=image.astype(dtype), img_shape=size, ori_shape=size, img_id=0))
        with torch.no_grad():
            sample, = model.test_step({k: [v] for k, v in data.items()})
        return draw_prediction(visualizer, image, sample, scope, score_thr, opacity)

    return picture


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
