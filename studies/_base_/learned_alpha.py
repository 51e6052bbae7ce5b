# alpha is left to itself; tested at three sizes without and with the CCA branch.
_base_ = 'sizes.py'
default_hooks = dict(mixing_schedule=dict(decay=None))
study = dict(
    tests={
        name.replace('dropped', 'kept'): {
            **changes, 'model.backbone.keep_cca': True
        }
        for name, changes in _base_.study.tests.items()
    })
