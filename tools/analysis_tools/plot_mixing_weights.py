"""Draws the weight of CCA over training: plot_mixing_weights.py --help."""
from mmscheme.analysis.cca_plot import main

if __name__ == '__main__':
    main()
