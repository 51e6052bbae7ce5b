"""Draw the predictions of an exported model into images, or write them as data."""
import argparse
import warnings
from typing import List, Optional

import mmcv
from mmengine.utils import ProgressBar

from mmscheme.apis.raw_predictions import RawPredictions
from mmscheme.deploy.predictor import ExportedPredictor
from mmscheme.utils.cli import add_drawing_arguments, pictures_folder
from mmscheme.utils.image_jobs import Job, find_jobs, read_image, report, run_jobs
from mmscheme.utils.user_errors import user_errors
from mmscheme.visualization.images import ImageReader
from mmscheme.visualization.predictions import make_drawer


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Draw the predictions of an exported model into images, or write them as '
        'data.')
    parser.add_argument('model', help='file written by export')
    parser.add_argument('inputs', nargs='+', metavar='IMAGE', help='image or folder of images')
    add_drawing_arguments(parser)
    parser.add_argument('--debug', action='store_true', help='print the traceback of an error')
    return parser.parse_args(argv)


def main(argv: Optional[List[str]] = None) -> None:
    """Write a picture for each image, or data."""
    args = parse_args(argv)
    warnings.filterwarnings('ignore', category=UserWarning)
    out = pictures_folder(args)
    with user_errors(args.debug):
        jobs = find_jobs(args.inputs, out, args.masks, ('.npy', ))
        for job in jobs:
            if job.video:
                raise ValueError(f'{job.source}: expected an image; `predict` takes videos')
        predictor = ExportedPredictor(args.model)
        meta, scope = predictor.meta, predictor.scope
        read = ImageReader(predictor.pipeline.transforms)
        if read.stock:
            jobs = [job for job in jobs if job.source.suffix.lower() != '.npy']
        draw = make_drawer(meta, scope, args.score_thr, args.opacity) if out else None
        raw = None
        if args.json or args.masks:
            raw = RawPredictions(scope, meta, jobs, args.json, args.ann_file)

        def label(job: Job, _: ProgressBar) -> None:
            if read.stock:
                read_image(job.source)  # names what is not an image, or not whole
            image, sample = read(job.source), predictor(job.source)
            if draw:
                mmcv.imwrite(draw(image, sample), str(job.target))
            if raw:
                raw.add(job, sample)

        problems = run_jobs(label, jobs, args.debug)
        if raw:
            raw.finish()
    if raw and raw.numbers:
        print(f'note: {raw.numbers.source}')
    report(jobs, problems, out, args.masks, args.json)


if __name__ == '__main__':
    main()
