"""Publishes a checkpoint: python tools/misc/publish_model.py --help."""
from mmscheme.apis.publish import main

if __name__ == '__main__':
    main()
