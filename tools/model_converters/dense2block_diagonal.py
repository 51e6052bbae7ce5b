"""Converts weights: python tools/model_converters/dense2block_diagonal.py --help."""
from mmscheme.apis.convert import dense_to_block_diagonal

if __name__ == '__main__':
    dense_to_block_diagonal()
