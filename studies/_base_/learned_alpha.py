# alpha is left to itself; tested without and with the CCA branch, at three sizes.
_base_ = 'imagenette_64.py'
default_hooks = dict(mixing_schedule=dict(decay=None))
_pipeline = 'test_dataloader.dataset.pipeline'
study = dict(
    tests={
        f'{branch}_{size}': {
            'model.backbone.keep_cca': branch == 'kept',
            f'{_pipeline}.1.scale': size * 9 // 8,
            f'{_pipeline}.2.crop_size': size
        }
        for size in (64, 96, 128) for branch in ('dropped', 'kept')
    })
