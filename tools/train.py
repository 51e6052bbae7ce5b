"""Trains a model: python tools/train.py --help."""
from mmscheme.apis.train import main

if __name__ == '__main__':
    main()
