# UPerNet, Swin-T (12-e8), ADE20K.
_base_ = 'upernet_swin_t_44e8_ade20k.py'
model = dict(backbone=dict(groups=(1, 2)))
