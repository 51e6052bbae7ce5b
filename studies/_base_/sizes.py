# Tested at three sizes.
_base_ = 'imagenette_64.py'
_pipeline = 'test_dataloader.dataset.pipeline'
study = dict(
    tests={
        f'dropped_{size}': {
            f'{_pipeline}.1.scale': size * 9 // 8,
            f'{_pipeline}.2.crop_size': size
        }
        for size in (64, 96, 128)
    })
