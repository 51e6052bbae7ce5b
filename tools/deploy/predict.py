"""Draw the predictions of an exported model into images."""
import argparse
import warnings
from typing import List, Optional

import mmcv
from mmengine.utils import ProgressBar

from mmscheme.deploy.predictor import ExportedPredictor
from mmscheme.utils.cli import add_drawing_arguments
from mmscheme.utils.image_jobs import Job, find_jobs, read_image, report, run_jobs
from mmscheme.utils.user_errors import user_errors
from mmscheme.visualization.predictions import draw_prediction, make_visualizer


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Draw the predictions of an exported model into images.')
    parser.add_argument('model', help='file written by tools/deploy/export.py')
    parser.add_argument('inputs', nargs='+', metavar='IMAGE', help='image or folder of images')
    add_drawing_arguments(parser)
    parser.add_argument('--debug', action='store_true', help='print the traceback of an error')
    return parser.parse_args(argv)


def main(argv: Optional[List[str]] = None) -> None:
    """Write a picture for each image."""
    args = parse_args(argv)
    warnings.filterwarnings('ignore', category=UserWarning)
    with user_errors(args.debug):
        jobs = find_jobs(args.inputs, args.out)
        for job in jobs:
            if job.video:
                raise ValueError(f'{job.source}: expected an image; tools/predict.py takes videos')
        predictor = ExportedPredictor(args.model)
        visualizer = make_visualizer(predictor.meta['visualizer'], predictor.meta, predictor.scope)

        def label(job: Job, _: ProgressBar) -> None:
            picture = draw_prediction(visualizer, read_image(job.source), predictor(job.source),
                                      predictor.scope, args.score_thr, args.opacity)
            mmcv.imwrite(picture, str(job.target))

        problems = run_jobs(label, jobs, args.debug)
    report(jobs, problems, args.out)


if __name__ == '__main__':
    main()
