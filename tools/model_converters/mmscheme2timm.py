"""Converts weights: python tools/model_converters/mmscheme2timm.py --help."""
from mmscheme.apis.convert import mmscheme_to_timm

if __name__ == '__main__':
    mmscheme_to_timm()
