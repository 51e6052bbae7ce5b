"""Trains and tests the demo: python tools/demo.py --help."""
from mmscheme.apis.demo import main

if __name__ == '__main__':
    main()
