"""Counts a config's model: python tools/analysis_tools/get_flops.py --help."""
from mmscheme.analysis.complexity import main

if __name__ == '__main__':
    main()
