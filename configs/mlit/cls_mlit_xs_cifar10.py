# Classifier, mLiT-XS, CIFAR-10 as folders {train,val}/<class> at 36x36.
_base_ = '_base_/cls.py'
model = dict(backbone=dict(arch='xs'), head=dict(in_channels=128))
