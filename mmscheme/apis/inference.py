"""Predict for images and videos, and write pictures or data."""
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

import cv2
import mmcv
import numpy as np
import torch
from mmengine import Config
from mmengine.dataset import Compose
from mmengine.utils import ProgressBar
from numpy.typing import NDArray

from mmscheme.models.loading import label_ids, load_model
from mmscheme.utils.config_query import inference_pipeline, scope_of, step_name
from mmscheme.utils.image_jobs import Job, read_image, run_jobs
from mmscheme.utils.output_files import replacing
from mmscheme.visualization.images import ImageReader

from .raw_predictions import RawPredictions

__all__ = ['Predictor', 'load_predictor', 'predict']

_Image = NDArray[Any]


class Predictor(NamedTuple):
    """A model that predicts for images in memory.

    Attributes:
        find: From an image as the pipeline reads it, or from a frame of a video, BGR, to the
            framework's data sample at the size of the image.
        scope: The framework.
        meta: Classes and palette where they are known, ``visualizer`` of the config, and of
            segmenters the ``label_ids`` of :func:`mmscheme.models.loading.label_ids`.
        read: From a file to its image, by the steps of the pipeline.
    """
    find: Callable[[_Image], Any]
    scope: str
    meta: Dict[str, Any]
    read: Callable[[Path], _Image]


def load_predictor(cfg: Config, checkpoint: str, device: Optional[str] = None) -> Predictor:
    """Build what predicts with a checkpoint.

    Args:
        cfg: A config of mmsegmentation, mmdetection or mmpretrain.
        checkpoint: File.
        device: Device in torch's notation; by default a GPU if there is one.

    Returns:
        The predictor.

    Raises:
        FileNotFoundError, ValueError: The checkpoint is missing, or of another model.
    """
    scope = scope_of(cfg)
    model, meta = load_model(cfg, checkpoint)
    model.to(device or ('cuda' if torch.cuda.is_available() else 'cpu'))
    meta = dict(meta, visualizer=cfg.get('visualizer'), label_ids=label_ids(cfg, meta))
    steps = inference_pipeline(cfg)
    if not steps:
        raise ValueError('test_pipeline: expected a step that reads images, found none')
    # Up to the step that reads the image, whose name begins so in all frameworks.
    last = next((i for i, s in enumerate(steps) if step_name(s).startswith('Load')), 0)
    reader, pipeline = ImageReader(steps[:last + 1]), Compose(steps[last + 1:])
    grey = str(steps[last].get('color_type')).startswith('gray')

    def read(path: Path) -> _Image:
        if reader.stock:
            read_image(path)  # names what is not an image, or not whole
        return reader.read(dict(img_path=str(path)))

    def find(image: _Image) -> Any:
        size = image.shape[:2]
        if grey and image.ndim == 3:  # a frame of a video
            image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        if steps[last].get('to_float32'):
            image = image.astype(np.float32)
        data = pipeline(dict(img=image, img_shape=size, ori_shape=size, img_id=0))
        with torch.no_grad():
            sample, = model.test_step({k: [v] for k, v in data.items()})
        return sample.cpu()

    return Predictor(find, scope, meta, read)


def predict(find: Callable[[_Image], Any], jobs: Sequence[Job],
            draw: Optional[Callable[[_Image, Any], _Image]] = None,
            raw: Optional[RawPredictions] = None, debug: bool = False,
            read: Callable[[Path], _Image] = read_image) -> List[str]:
    """Write what a model finds for each job, with progress.

    Args:
        find: See :class:`Predictor`.
        jobs: What to read and to write.
        draw: From an image and what is found in it to a picture, both BGR; for jobs with
            pictures.
        raw: Writes data too.
        debug: See :func:`mmscheme.utils.image_jobs.run_jobs`.
        read: See :class:`Predictor`.

    Returns:
        What could not be done, a line each; the others are done.
    """

    def label(job: Job, bar: ProgressBar) -> None:
        if draw and job.video:
            _label_video(lambda image: draw(image, find(image)), job, bar)
            return
        image = read(job.source)
        sample = find(image)
        if draw:
            mmcv.imwrite(draw(image, sample), str(job.target))
        if raw:
            raw.add(job, sample)

    problems = run_jobs(label, jobs, debug)
    if raw:
        raw.finish()
    return problems


def _label_video(picture: Callable[[_Image], _Image], job: Job, bar: ProgressBar) -> None:
    video = mmcv.VideoReader(str(job.source))
    writer: Optional[cv2.VideoWriter] = None
    with replacing(str(job.target)) as part:
        try:
            for frame in video:
                if frame is None:  # the header promised more
                    break
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
