# A dense FFN at E=4: twice the multiply-adds.
_base_ = '../../_base_/imagenette_128.py'
model = dict(backbone=dict(groups=(1, 1), expansion=4, cca=False))
