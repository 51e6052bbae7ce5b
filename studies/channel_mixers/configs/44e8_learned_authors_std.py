# 44-e8 with CCA, alpha left to itself, initial weights as the authors'.
_base_ = '../../_base_/learned_alpha.py'
model = dict(backbone=dict(match_variance=False))
