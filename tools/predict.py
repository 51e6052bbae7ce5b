"""Draw the predictions of a model into images and videos."""
import argparse
import warnings
from typing import List, Optional

from mmscheme.apis.config import load_config
from mmscheme.apis.inference import load_predictor, predict
from mmscheme.utils.cli import add_config_arguments, add_drawing_arguments
from mmscheme.utils.image_jobs import find_jobs, report
from mmscheme.utils.user_errors import user_errors


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Draw the predictions of a model into images and videos.')
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint: a path, a URL or hf://OWNER/NAME/FILE')
    parser.add_argument('inputs', nargs='+', metavar='INPUT', help='image, video or folder of them')
    add_drawing_arguments(parser)
    parser.add_argument('--device',
                        help='device of the model, such as cuda:0 (default: a GPU if there is one)')
    return parser.parse_args(argv)


def main(argv: Optional[List[str]] = None) -> None:
    """Write a picture or video for each input."""
    args = parse_args(argv)
    warnings.filterwarnings('ignore', category=UserWarning)
    with user_errors(args.debug):
        jobs = find_jobs(args.inputs, args.out)
        cfg = load_config(args.config, cfg_options=args.cfg_options, data_root=args.data_root)
        picture = load_predictor(cfg, args.checkpoint, args.device, args.score_thr, args.opacity)
        problems = predict(picture, jobs, args.debug)
    report(jobs, problems, args.out)


if __name__ == '__main__':
    main()
