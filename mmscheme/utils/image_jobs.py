"""Lists of images and videos to read, each with the file to write."""
import sys
import traceback
from pathlib import Path
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Tuple

import cv2
import mmcv
from mmengine.utils import ProgressBar
from numpy.typing import NDArray

from .image_files import IMAGE_SUFFIXES, UNREAD_SUFFIXES, lost_part
from .output_files import tell_apart

__all__ = ['Job', 'find_jobs', 'read_image', 'report', 'run_jobs']

_VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg')


class Job(NamedTuple):
    """A file to read and those to write.

    Attributes:
        source: Image or video.
        target: Its picture, or None.
        video: True for a video.
        mask: Its label map, or None.
    """
    source: Path
    target: Optional[Path]
    video: bool
    mask: Optional[Path] = None


def find_jobs(inputs: Sequence[str], out_dir: Optional[str], mask_dir: Optional[str] = None,
              suffixes: Sequence[str] = ()) -> List[Job]:
    """Find images and videos, and give each a target of its own.

    Args:
        inputs: Files and folders; folders are searched with all below them but what is written.
        out_dir: Folder of the pictures, or None; files keep their place below an input folder.
        mask_dir: Folder of the label maps, or None; the same.
        suffixes: Suffixes of images beside the usual ones, which readers of one's own know.

    Returns:
        One entry a file.

    Raises:
        FileNotFoundError: An input does not exist, or a folder has no images and videos.
        ValueError: A file is neither, or would be replaced.
    """
    files: List[Path] = []
    names: List[Path] = []
    written = dict(picture=out_dir, mask=mask_dir)
    images = tuple(dict.fromkeys((*IMAGE_SUFFIXES, *suffixes)))
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            found = _walk(path, [Path(d) for d in written.values() if d], images + _VIDEOS)
            unread = _walk(path, (), tuple({*UNREAD_SUFFIXES} - {*images}))
            if unread:
                print(f'note: files in formats that are not read: {len(unread)}, as {unread[0]}')
            if not found:
                raise FileNotFoundError(f'no images or videos in {path}')
        elif path.is_file():
            found = [path]
        else:
            raise FileNotFoundError(f'input not found: {path}')
        for file in found:
            if not file.name.lower().endswith(images + _VIDEOS):
                raise ValueError(f'{file}: expected an image ({" ".join(images)}) or a '
                                 f'video ({" ".join(_VIDEOS)})')
            files.append(file)
            names.append(file.relative_to(path) if path.is_dir() else Path(file.name))
    pictures = _targets(out_dir, [
        n.with_suffix('.mp4') if _is_video(n) else
        n if cv2.haveImageWriter(n.name) else n.with_suffix('.png') for n in names])
    masks = _targets(mask_dir, [n.with_suffix('.png') for n in names])
    jobs = [Job(file, picture, _is_video(file), mask)
            for file, picture, mask in zip(files, pictures, masks)]
    # As the disk knows them, so that links are seen.
    sources = {(file.stat().st_dev, file.stat().st_ino): file for file in files}
    for job in jobs:
        for kind, target in (('picture', job.target), ('mask', job.mask)):
            if target and target.exists():
                status = target.stat()
                read = sources.get((status.st_dev, status.st_ino))
                if read:
                    whose = f'its {kind}' if read == job.source else f'the {kind} of {job.source}'
                    raise ValueError(f'{read}: {whose} would replace it; choose another folder')
    return jobs


def _targets(folder: Optional[str], names: Sequence[Path]) -> List[Optional[Path]]:
    return [Path(folder, name) if folder else None
            for name in tell_apart([str(n) for n in names])]


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in _VIDEOS


def _walk(folder: Path, written: Sequence[Path], suffixes: Tuple[str, ...]) -> List[Path]:
    """Return the images and videos below a folder, without what an earlier run has written."""
    files = sorted(p for p in folder.rglob('*')
                   if p.is_file() and p.name.lower().endswith(suffixes))
    for out in (w.resolve() for w in written):
        if folder.resolve() in out.parents:
            files = [p for p in files if out not in (p.parent.resolve() / p.name).parents]
    return files


def read_image(path: Path) -> NDArray[Any]:
    """Read an image, ``(H, W, 3)`` uint8, BGR.

    Raises:
        ValueError: It is not an image, or not whole.
    """
    image = cv2.imread(str(path))
    lost = 'not an image' if image is None else lost_part(str(path))
    if lost:
        raise ValueError(f'not a readable image: {path} ({lost})')
    return image


def run_jobs(label: Callable[[Job, ProgressBar], None], jobs: Sequence[Job],
             debug: bool = False) -> List[str]:
    """Run all jobs that can be run, with progress.

    Args:
        label: Function that writes the picture of an image, or the video of one and moves
            the bar.
        jobs: The jobs.
        debug: Print the tracebacks of those that fail.

    Returns:
        A line for each job that failed.
    """
    problems: List[str] = []
    lengths = (max(0, int(mmcv.VideoReader(str(job.source)).frame_cnt)) if job.video else 1
               for job in jobs)
    bar = ProgressBar(max(1, sum(lengths)), file=sys.stdout)
    try:
        for job in jobs:
            try:
                label(job, bar)
            except OSError:  # on a full disk the rest would fail as well
                raise
            # What transforms, models and OpenCV say of an image that they cannot take.
            except Exception as e:
                text = ' '.join(str(e).split()) or repr(e)
                named = str(job.source) in text
                problems.append(text if named else f'{job.source}: {text}')
                if debug:
                    print()
                    traceback.print_exc()
            if not job.video:
                bar.update()
    finally:
        print()
    return problems


def report(jobs: Sequence[Job], problems: Sequence[str], *written: Optional[str]) -> None:
    """Report the result of :func:`run_jobs`; end the process with status 2 if a job failed."""
    places = ', '.join(str(Path(w).resolve()) for w in written if w)
    print(f'{len(jobs) - len(problems)} of {len(jobs)} files: {places}')
    for problem in problems:
        print(f'error: {problem}', file=sys.stderr)
    if problems:
        sys.exit(2)
