"""The tools of an installed mmscheme: python -m mmscheme TOOL ..."""
import ast
import runpy
import sys
from pathlib import Path
from typing import Dict

from mmscheme.utils.setup_env import shipped_dir

# Because tools/predict.py has the same file name.
_OTHER_NAMES = {'deploy/predict': 'predict_exported'}


def find_tools() -> Dict[str, Path]:
    """Return the files of ``tools/`` by name; ``dev.py`` sets up a clone, where it is run."""
    folder = shipped_dir() / 'tools'
    paths = {p.relative_to(folder).with_suffix('').as_posix(): p
             for p in sorted(folder.rglob('*.py'), key=lambda p: (len(p.parts), p))}
    return {_OTHER_NAMES.get(name, p.stem): p for name, p in paths.items() if name != 'dev'}


def main() -> None:
    """Hand the command line to the tool that it names."""
    tools = find_tools()
    name = sys.argv[1] if len(sys.argv) > 1 else '--help'
    if name in ('-h', '--help'):
        print('usage: python -m mmscheme TOOL ...\n')
        for tool, path in tools.items():
            about = ast.get_docstring(ast.parse(path.read_text())) or ''
            print(f'  {tool:21}{about.splitlines()[0]}')
        print('\n`python -m mmscheme TOOL --help` has the arguments of a tool.')
        sys.exit(0 if len(sys.argv) > 1 else 2)
    if name not in tools:
        print(f'error: no tool {name!r}: expected one of {", ".join(tools)}.', file=sys.stderr)
        sys.exit(2)
    tool = sys.argv.pop(1)
    sys.argv[0] = f'python -m mmscheme {tool}'
    # Not as __main__, because the usage would then show the path of the file.
    runpy.run_path(str(tools[tool]))['main']()


if __name__ == '__main__':
    main()
