"""Checks a run before it starts: python tools/misc/check_config.py --help."""
from mmscheme.apis.check_config import main

if __name__ == '__main__':
    main()
