"""Tests a model: python tools/test.py --help."""
from mmscheme.apis.test import main

if __name__ == '__main__':
    main()
