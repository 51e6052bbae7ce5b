"""Draws a data set's samples: python tools/analysis_tools/browse_dataset.py --help."""
from mmscheme.analysis.browse_dataset import main

if __name__ == '__main__':
    main()
