# 44-e8 with CCA and the schedule, the backbone from the study's own classifier.
_base_ = '44e8_random.py'
study = dict(after='channel_mixers/44e8_fan_in', part='backbone')
