"""Draws a data set's samples: python tools/analysis_tools/browse_dataset.py --help."""
from mmscheme.analysis.browse import main

if __name__ == '__main__':
    main()
