"""Draws what an exported model finds in images: python tools/deploy/predict.py --help."""
from mmscheme.deploy.predictor import main

if __name__ == '__main__':
    main()
