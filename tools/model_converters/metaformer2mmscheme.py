"""Converts weights: python tools/model_converters/metaformer2mmscheme.py --help."""
from mmscheme.apis.convert import metaformer_to_mmscheme

if __name__ == '__main__':
    metaformer_to_mmscheme()
