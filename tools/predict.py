"""Draw the predictions of a model into images and videos, or write them as data."""
import argparse
import warnings
from typing import List, Optional

from mmscheme.apis.config import load_config
from mmscheme.apis.inference import load_predictor, predict
from mmscheme.apis.raw_predictions import RawPredictions
from mmscheme.utils.cli import add_config_arguments, add_drawing_arguments, pictures_folder
from mmscheme.utils.config_query import image_suffixes
from mmscheme.utils.image_jobs import find_jobs, report
from mmscheme.utils.user_errors import user_errors
from mmscheme.visualization.predictions import make_drawer


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Draw the predictions of a model into images and videos, or write them as '
        'data.')
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint: a path, a URL or hf://OWNER/NAME/FILE')
    parser.add_argument('inputs', nargs='+', metavar='INPUT', help='image, video or folder of them')
    add_drawing_arguments(parser)
    parser.add_argument('--device',
                        help='device of the model, such as cuda:0 (default: a GPU if there is one)')
    return parser.parse_args(argv)


def main(argv: Optional[List[str]] = None) -> None:
    """Write a picture or video for each input, or data."""
    args = parse_args(argv)
    warnings.filterwarnings('ignore', category=UserWarning)
    out = pictures_folder(args)
    with user_errors(args.debug):
        cfg = load_config(args.config, cfg_options=args.cfg_options, data_root=args.data_root)
        jobs = find_jobs(args.inputs, out, args.masks, image_suffixes(cfg))
        find, scope, meta, read = load_predictor(cfg, args.checkpoint, args.device)
        draw = make_drawer(meta, scope, args.score_thr, args.opacity) if out else None
        raw = None
        if args.json or args.masks:
            raw = RawPredictions(scope, meta, jobs, args.json, args.ann_file, cfg)
        problems = predict(find, jobs, draw, raw, args.debug, read)
    if raw and raw.numbers:
        print(f'note: {raw.numbers.source}')
    report(jobs, problems, out, args.masks, args.json)


if __name__ == '__main__':
    main()
