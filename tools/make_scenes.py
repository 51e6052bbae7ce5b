"""Writes the generated data set: python tools/make_scenes.py data/scenes."""
from mmscheme.apis.make_scenes import main

if __name__ == '__main__':
    main()
