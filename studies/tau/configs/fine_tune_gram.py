# CCA of the published constant, an epoch more at 96x96.
_base_ = '../../_base_/fine_tune_96.py'
study = dict(after='channel_mixers/44e8_learned')
