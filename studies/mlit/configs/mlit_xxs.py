# mLiT-XXS.
_base_ = '../../_base_/imagenette_36.py'
