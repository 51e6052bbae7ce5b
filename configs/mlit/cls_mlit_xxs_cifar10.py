# Classifier, mLiT-XXS, CIFAR-10 as folders {train,val}/<class> at 36x36. The recipe is not the
# paper's, which is not known here: it is that of our ImageNet classifiers.
_base_ = '_base_/cls.py'
