"""The tools of an installed mmscheme: python -m mmscheme TOOL ..."""
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
    if len(sys.argv) < 2 or sys.argv[1] not in tools:
        print(f'usage: python -m mmscheme TOOL ...\n\nTOOL is one of {", ".join(tools)}.\n'
              '`python -m mmscheme TOOL --help` describes it.', file=sys.stderr)
        sys.exit(0 if sys.argv[1:] in (['-h'], ['--help']) else 2)
    tool = sys.argv.pop(1)
    sys.argv[0] = f'python -m mmscheme {tool}'
    # Not as __main__, because the usage would then show the path of the file.
    runpy.run_path(str(tools[tool]))['main']()


if __name__ == '__main__':
    main()
