# SCHEMEformer-S12 in 44-e8. The dense MetaFormer-PPAA with the same stages is
# backbone=dict(groups=(1, 1), expansion=4, cca=False).
model = dict(
    backbone=dict(
        type='mmscheme.SCHEMEformer', arch='s12', groups=(4, 4), expansion=8, cca=True))
