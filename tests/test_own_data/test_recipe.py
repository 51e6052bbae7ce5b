"""The configs that are written, for all tasks, amounts of data and machines."""
import pytest
import torch

from mmscheme.apis.config import load_config
from mmscheme.own_data.recipe import Facts, largest_batch, write_recipe
from mmscheme.utils.config_query import iter_heads, walk

FACTS = dict(command='python -m mmscheme new', data='x_data', classes=['a', 'b', "it's"],
             size=(640, 480), smallest=20)


@pytest.mark.parametrize('gpu', [False, True])
@pytest.mark.parametrize('count', [5, 400, 100_000])
@pytest.mark.parametrize('task, masks', [('seg', False), ('det', False), ('det', True),
                                         ('cls', False)])
def test_config_fits_the_data(task, masks, count, gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
    facts = Facts(task=task, counts=(count, 9, 4 * gpu), masks=masks, **FACTS)
    batch = largest_batch(facts)
    assert 2 <= batch <= max(2, count // 4)
    text = write_recipe(facts, batch)
    assert len(text.splitlines()) <= 30
    path = tmp_path / 'x.py'
    path.write_text(text)
    cfg = load_config(path)
    assert {head['num_classes'] for _, head in iter_heads(cfg.model)
            if 'num_classes' in head} == {3}
    assert cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == batch
    files = [cfg[f'{s}_dataloader'].dataset for s in ('train', 'val', 'test')]
    assert (files[1] == files[2]) is not gpu  # with images to test, a data set of their own
    length = cfg.train_cfg.get('max_iters') or cfg.train_cfg.max_epochs
    assert cfg.param_scheduler[-1]['end'] == length >= cfg.train_cfg.val_interval
    loaders = [step for key in ('train_pipeline', 'test_pipeline', 'tta_pipeline')
               for _, step in walk(cfg.get(key) or {}) if step.get('type') == 'LoadAnnotations']
    if task == 'seg':
        assert [step['reduce_zero_label'] for step in loaders] == [False] * 3
        assert cfg.train_pipeline[3].crop_size == cfg.model.data_preprocessor.size == (480, 480)
        assert cfg.tta_pipeline[1].transforms[0][0].scale == (320, 240)
    elif task == 'det':
        assert cfg.train_pipeline[2].scale == cfg.test_pipeline[1].scale == (640, 480)
        assert [step.scale for step in cfg.tta_pipeline[1].transforms[0]] == [
            (512, 384), (640, 480), (768, 576)]
        assert cfg.test_evaluator.ann_file == f'x_data/{"test" if gpu else "val"}.json'
