"""Writes the table of configs: python tools/analysis_tools/config_table.py --help."""
from mmscheme.analysis.config_table import main

if __name__ == '__main__':
    main()
