"""Start a project on your own data: inspect it, write a config, check it."""
import argparse
import shlex
import sys
import warnings
from pathlib import Path
from typing import List, Optional

from mmengine.registry import init_default_scope

from mmscheme.apis.config import load_config
from mmscheme.checks import check_run
from mmscheme.own_data import SOURCES, Project, make_project
from mmscheme.utils.config_query import scope_of
from mmscheme.utils.user_errors import some_of, user_errors


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Look at images and labels, write NAME.py and NAME_data/ into the current '
        'folder, and check them. Your data are not changed.')
    parser.add_argument('task', choices=['seg', 'det', 'cls'],
                        help='segmentation, detection or classification')
    parser.add_argument('data', help='folder with images and labels')
    parser.add_argument('--name', required=True, metavar='NAME',
                        help='name of the project, such as my_project')
    parser.add_argument('--from', dest='source', choices=sorted({*sum(SOURCES.values(), ())}),
                        help='format of the labels (default: detected)')
    parser.add_argument('--classes', nargs='+', metavar='NAME',
                        help='seg: names of the mask values that are not ignored, in the order '
                        'of the values; det, cls: classes to train, in this order')
    parser.add_argument('--ignore', nargs='*', metavar='VALUE',
                        help='values of masks, or names of classes, to ignore (default: for '
                        'seg, 255 and classes called void or unlabelled)')
    parser.add_argument('--seed', type=int, default=0,
                        help='seed of the split that is drawn if there is none (default: 0)')
    parser.add_argument('--debug', action='store_true', help='print the traceback of an error')
    return parser.parse_args(argv)


def check(project: Project) -> None:
    """Check a project as ``check_config`` does; with less memory than it needs, halve its batch.

    Raises:
        UserErrors: The checks found errors.
    """
    splits = ('train', 'val', *(('test', ) if project.facts.counts[2] else ()))
    smaller: Optional[Project] = project
    while smaller is not None:
        project = smaller
        cfg = load_config(project.config)
        init_default_scope(scope_of(cfg))
        findings = check_run(cfg, splits)
        full = any('out of memory' in line for line in findings.errors)
        smaller = project.halve_batch() if full else None
    for table in findings.labels:
        print('\n'.join(table.lines(most=20)))
    for line in findings.warnings:
        print(f'warning: {line}')
    print(f'{project.config}: {findings.summary()}; {project.batch} images per iteration',
          flush=True)
    if findings.errors:
        print(f'after mending the data: python -m mmscheme check_config {project.config}')
        raise findings.as_error()


def main(argv: Optional[List[str]] = None) -> None:
    """Write the project, check it, and print the next command."""
    args = parse_args(argv)
    warnings.filterwarnings('ignore', category=UserWarning)
    with user_errors(args.debug):
        words = sys.argv[1:] if argv is None else argv
        project = make_project(
            args.task, Path(args.data), args.name, args.source, args.classes, args.ignore,
            args.seed, ' '.join(['python -m mmscheme new', *map(shlex.quote, words)]))
        for note in project.notes:
            print(f'note: {note}')
        counts = dict(zip(('train', 'val', 'test'), project.facts.counts))
        shown = ', '.join(f'{k} {n}' for k, n in counts.items() if n)
        print(f'{project.config}: {len(project.facts.classes)} classes '
              f'({some_of(project.facts.classes)}); images: {shown}', flush=True)
        check(project)
    print(f'next: python -m mmscheme train {project.config}')


if __name__ == '__main__':
    main()
