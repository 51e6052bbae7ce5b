"""Writes the deployment form of a checkpoint: python tools/deploy/fold.py --help."""
from mmscheme.deploy.fold import main

if __name__ == '__main__':
    main()
