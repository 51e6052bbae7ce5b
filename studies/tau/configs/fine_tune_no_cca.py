# 44-e8 without CCA, an epoch more at 96x96.
_base_ = '../../_base_/fine_tune_96.py'
model = dict(backbone=dict(cca=False))
study = dict(after='channel_mixers/44e8_no_cca', tests=dict(_delete_=True, dropped_96={}))
