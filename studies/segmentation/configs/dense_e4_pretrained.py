# Dense FFN, E=4, the backbone from the study's own classifier.
_base_ = 'dense_e4_random.py'
study = dict(after='channel_mixers/dense_e4_fan_in', part='backbone')
