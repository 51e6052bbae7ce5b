# Classifier, mLiT-S, CIFAR-10 as folders {train,val}/<class> at 36x36.
_base_ = '_base_/cls.py'
model = dict(backbone=dict(arch='s'), head=dict(in_channels=144))
