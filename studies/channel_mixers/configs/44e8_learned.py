# 44-e8 with CCA, alpha left to itself.
_base_ = '../../_base_/learned_alpha.py'
