"""Trains and tests the configs of a study: sweep.py --help."""
from mmscheme.analysis.sweep import main

if __name__ == '__main__':
    main()
