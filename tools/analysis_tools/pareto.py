"""Draws cost against metric or width of configs: pareto.py --help."""
from mmscheme.analysis.pareto import main

if __name__ == '__main__':
    main()
