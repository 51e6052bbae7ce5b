"""Draws what a model finds in images and videos: python tools/predict.py --help."""
from mmscheme.apis.inference import main

if __name__ == '__main__':
    main()
