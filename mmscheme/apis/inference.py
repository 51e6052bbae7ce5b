"""Predict for images and videos, and write pictures or data."""
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence

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

from .raw_predictions import RawPredictions

__all__ = ['Predictor', 'load_predictor', 'predict']

_Image = NDArray[Any]


class Predictor(NamedTuple):
    """A model that predicts for images in memory.

    Attributes:
        find: From an image, BGR, to the framework's data sample at the size of the image.
        scope: The framework.
        meta: Classes and palette where they are known, ``visualizer`` of the config, and of
            segmenters the ``label_ids`` of :func:`mmscheme.models.loading.label_ids`.
    """
    find: Callable[[_Image], Any]
    scope: str
    meta: Dict[str, Any]


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
    loaders = [step for step in steps if step_name(step) == 'LoadImageFromFile']
    if not loaders:
        raise ValueError('test_pipeline: expected a LoadImageFromFile to replace, found none')
    dtype = np.float32 if loaders[0].get('to_float32') else np.uint8
    pipeline = Compose([step for step in steps if step not in loaders])

    def find(image: _Image) -> Any:
        size = image.shape[:2]
        data = pipeline(dict(img=image.astype(dtype), img_shape=size, ori_shape=size, img_id=0))
        with torch.no_grad():
            sample, = model.test_step({k: [v] for k, v in data.items()})
        return sample.cpu()

    return Predictor(find, scope, meta)


def _frames(video: mmcv.VideoReader) -> Iterator[_Image]:
    for frame in video:
        if frame is None:  # the header promised more
            return
        yield frame


def predict(find: Callable[[_Image], Any], jobs: Sequence[Job],
            draw: Optional[Callable[[_Image, Any], _Image]] = None,
            raw: Optional[RawPredictions] = None, debug: bool = False) -> List[str]:
    """Write what a model finds for each job, with progress.

    Args:
        find: See :class:`Predictor`.
        jobs: What to read and to write.
        draw: From an image and what is found in it to a picture, both BGR; for jobs with
            pictures.
        raw: Writes data too.
        debug: See :func:`mmscheme.utils.image_jobs.run_jobs`.

    Returns:
        What could not be done, a line each; the others are done.
    """

    def label(job: Job, bar: ProgressBar) -> None:
        if draw and job.video:
            _label_video(lambda image: draw(image, find(image)), job, bar)
            return
        image = read_image(job.source)
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
