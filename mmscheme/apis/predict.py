"""Pictures and videos with what a model finds in them."""
import argparse
import contextlib
import io
import sys
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set

import cv2
import mmcv
import numpy as np
from mmengine import Config
from mmengine.registry import VISUALIZERS, init_default_scope
from mmengine.utils import ProgressBar
from numpy.typing import NDArray

from mmscheme.image_files import lost_part

from .arguments import add_config_arguments, add_drawing_arguments
from .config import load_config
from .errors import user_errors

__all__ = ['Job', 'draw_prediction', 'find_jobs', 'load_predictor', 'main', 'make_visualizer',
           'predict']

_IMAGES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm')
_VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg')


class Job(NamedTuple):
    """A file to read and the one to write."""
    source: Path
    target: Path
    video: bool


def find_jobs(inputs: Sequence[str], out_dir: str) -> List[Job]:
    """The images and videos that are meant, each with a target of its own.

    Args:
        inputs: Files, and folders, which are searched with what is below them.
        out_dir: Folder to write; below it what a folder held keeps its place.

    Returns:
        One entry a file.

    Raises:
        FileNotFoundError: An input does not exist, or a folder has no images and videos.
        ValueError: A file is neither, or would be replaced by its own picture.
    """
    jobs: List[Job] = []
    taken: Set[Path] = set()
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            files = sorted(p for p in path.rglob('*')
                           if p.is_file() and p.suffix.lower() in _IMAGES + _VIDEOS)
            if not files:
                raise FileNotFoundError(f'no images or videos in {path}')
        elif path.is_file():
            files = [path]
        else:
            raise FileNotFoundError(f'input not found: {path}')
        for file in files:
            video = file.suffix.lower() in _VIDEOS
            if not video and file.suffix.lower() not in _IMAGES:
                raise ValueError(f'{file}: expected an image ({" ".join(_IMAGES)}) or a video '
                                 f'({" ".join(_VIDEOS)})')
            inside = file.relative_to(path) if path.is_dir() else Path(file.name)
            target = Path(out_dir) / (inside.with_suffix('.mp4') if video else inside)
            number = 1
            while target in taken:
                number += 1
                target = target.with_name(f'{inside.stem}_{number}{target.suffix}')
            taken.add(target)
            if target.exists() and target.samefile(file):
                raise ValueError(f'{file}: its picture would replace it; choose another --out')
            jobs.append(Job(file, target, video))
    return jobs


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
    from mmscheme.deploy import load_model
    scope = cfg.get('default_scope', '')
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


def _inferencer(cfg: Config, checkpoint: str, scope: str, device: Optional[str]) -> Any:
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


def _length(job: Job) -> int:
    return max(0, int(mmcv.VideoReader(str(job.source)).frame_cnt)) if job.video else 1


def predict(picture: Callable[[NDArray[Any]], NDArray[Any]], jobs: Sequence[Job]) -> List[str]:
    """Writes a picture or video for each job, with progress.

    Args:
        picture: From an image to its picture, both BGR.
        jobs: What to read and to write.

    Returns:
        What could not be read, a line each; the others are done.
    """
    problems: List[str] = []
    bar = ProgressBar(max(1, sum(_length(job) for job in jobs)), file=sys.stdout)
    for job in jobs:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        if job.video:
            problem = _label_video(picture, job, bar)
        else:
            image = cv2.imread(str(job.source))
            lost = 'not an image' if image is None else lost_part(str(job.source))
            problem = f'not a readable image: {job.source} ({lost})' if lost else None
            if not lost:
                mmcv.imwrite(picture(image), str(job.target))
            bar.update()
        if problem:
            problems.append(problem)
    print()
    return problems


def _label_video(picture: Callable[[NDArray[Any]], NDArray[Any]], job: Job, bar: ProgressBar
                 ) -> Optional[str]:
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
            return f'no frames in the video: {job.source}'
        writer.release()
        part.replace(job.target)
    finally:
        if writer is not None:
            writer.release()
        part.unlink(missing_ok=True)
    return None


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
        problems = predict(picture, jobs)
    print(f'{len(jobs) - len(problems)} of {len(jobs)} files: {Path(args.out).resolve()}')
    for problem in problems:
        print(f'error: {problem}', file=sys.stderr)
    if problems:
        sys.exit(2)
