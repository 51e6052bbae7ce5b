"""The tools of an installed mmscheme: python -m mmscheme {train,test,make_scenes} ..."""
import importlib
import sys

TOOLS = ('train', 'test', 'make_scenes')


def main() -> None:
    """Hands the command line to the tool it names."""
    if len(sys.argv) < 2 or sys.argv[1] not in TOOLS:
        print(f'usage: python -m mmscheme {{{",".join(TOOLS)}}} ...; each explains itself with '
              '--help', file=sys.stderr)
        sys.exit(0 if sys.argv[1:] in (['-h'], ['--help']) else 2)
    tool = sys.argv.pop(1)
    sys.argv[0] = f'python -m mmscheme {tool}'
    importlib.import_module(f'mmscheme.apis.{tool}').main()


if __name__ == '__main__':
    main()
