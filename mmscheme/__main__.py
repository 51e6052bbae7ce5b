"""The tools of an installed mmscheme: python -m mmscheme TOOL ..."""
import importlib
import sys

TOOLS = dict(
    train='mmscheme.apis.train',
    test='mmscheme.apis.test',
    make_scenes='mmscheme.apis.make_scenes',
    get_flops='mmscheme.analysis.complexity',
    browse_dataset='mmscheme.analysis.browse',
    benchmark='mmscheme.analysis.benchmark')


def main() -> None:
    """Hands the command line to the tool it names."""
    if len(sys.argv) < 2 or sys.argv[1] not in TOOLS:
        print(f'usage: python -m mmscheme {{{",".join(TOOLS)}}} ...; each explains itself with '
              '--help', file=sys.stderr)
        sys.exit(0 if sys.argv[1:] in (['-h'], ['--help']) else 2)
    tool = sys.argv.pop(1)
    sys.argv[0] = f'python -m mmscheme {tool}'
    importlib.import_module(TOOLS[tool]).main()


if __name__ == '__main__':
    main()
