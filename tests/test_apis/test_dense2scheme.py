"""One command from a trained dense model to a SCHEME model."""
import json
import re

import pytest
import torch
from mmengine import Config

from mmscheme.apis.dense2scheme import Conversion, convert_dense
from mmscheme.converters import Form
from mmscheme.layers import SCHEMEMixer
from mmscheme.models.loading import build_model, load_model
from tests.commands import load_tool
from tests.models import Interrupted, InterruptHook, randomise, tiny_config

dense2scheme = load_tool('model_converters/dense2scheme').main
SWIN = dict(_delete_=True, type='SwinTransformer', embed_dims=8, depths=(1, 1, 2, 1),
            num_heads=(1, 2, 2, 4), window_size=4, drop_path_rate=0.1,
            init_cfg=dict(type='Pretrained', checkpoint='https://nowhere/swin.pth'))


def dense_model(task, scenes, folder):
    """Config file and checkpoint of a tiny dense Swin with random weights."""
    cfg = tiny_config(task, scenes)
    cfg.merge_from_dict(dict(model=dict(backbone=dict(SWIN))))
    cfg.default_hooks.pop('mixing_schedule')
    cfg.train_dataloader.update(batch_size=2, num_workers=0, persistent_workers=False)
    for split in ('val', 'test'):
        cfg[f'{split}_dataloader'].update(num_workers=0, persistent_workers=False)
    cfg.pop('work_dir')
    cfg.dump(folder / f'{task}.py')
    torch.manual_seed(0)
    torch.save(dict(meta=dict(dataset_meta=dict(classes=('a', ))),
                    state_dict=randomise(build_model(cfg)).state_dict()), folder / f'{task}.pth')
    return folder / f'{task}.py', folder / f'{task}.pth'


@pytest.mark.slow
@pytest.mark.parametrize('task, metric', [('mask_rcnn', 'segm_mAP'), ('upernet', 'mIoU')])
def test_dense_models_of_two_tasks(task, metric, scenes, tmp_path, capsys, safe_checkpoints):
    config, checkpoint = dense_model(task, scenes, tmp_path)
    words = [str(config), str(checkpoint), str(tmp_path / 'out'), '--num-images', '12']
    dense2scheme(words)
    out = capsys.readouterr().out
    assert '| FFN | 11-e2 | 22-e4 | 44-e8 |' in out and '| mean |' in out
    assert 's left] backbone.stages.3.blocks.0.ffn' in out and f'| {metric} |' in out
    new, weights = out.split()[-2:]
    # A leaf: what it does not say is the user's.
    leaf = Config.fromfile(new)
    assert leaf._cfg_dict.keys() >= Config.fromfile(config)._cfg_dict.keys()
    assert 'train_dataloader' not in open(new).read()
    assert 'init_cfg' not in str(leaf.model.backbone).replace("'init_cfg': None", '')
    model, meta = load_model(leaf, weights)
    assert sum(isinstance(m, SCHEMEMixer) for m in model.modules()) == 5
    assert meta['classes'] == ('a', )
    rows = json.loads((tmp_path / 'out' / 'progress.json').read_text())['rows']
    assert [*rows] == ['dense', 'fitted'] and rows['fitted']['macs'] < rows['dense']['macs']
    tested = load_tool('test')
    tested.main([new, weights])
    # Nothing is done again; what is asked for is added, and goes on after a kill.
    dense2scheme([*words, '--no-test'])
    assert capsys.readouterr().out.splitlines()[-6:-2][0].startswith('| model')
    job = Conversion(str(config), str(checkpoint), tmp_path / 'out', num_images=12,
                     distill_iters=6, finetune_iters=2, test=False)
    with pytest.raises(Interrupted):
        convert_dense(job, hooks=[InterruptHook(4)], say=lambda line: None)
    assert list((tmp_path / 'out' / 'runs' / 'distilled_6').glob('iter_4.pth'))
    convert_dense(job, hooks=[InterruptHook(3)], say=lambda line: None)
    rows = json.loads((tmp_path / 'out' / 'progress.json').read_text())['rows']
    assert [*rows] == ['dense', 'fitted', 'distilled', 'fine-tuned']
    trained = torch.load(weights, weights_only=True)['state_dict']
    fitted = torch.load(tmp_path / 'out' / 'fitted.pth', weights_only=True)['state_dict']
    assert trained.keys() == fitted.keys()
    assert not all(torch.equal(v, fitted[k]) for k, v in trained.items())
    for changed in (dict(distill_iters=3), dict(distill_lr=1e-3)):
        with pytest.raises(ValueError, match='distilled'):
            convert_dense(job._replace(**changed), say=lambda line: None)


def test_faults_are_one_line(scenes, tmp_path, capsys, safe_checkpoints):
    config, checkpoint = dense_model('upernet', scenes, tmp_path)
    other = tmp_path / 'other.pth'
    torch.save(dict(state_dict={'a': torch.ones(1)}), other)
    for name in ('images', 'annotations'):
        (tmp_path / 'empty' / name / 'training').mkdir(parents=True)
    for words, message in (
            ([config, other], 'not a checkpoint of this config'),
            ([config, tmp_path / 'none.pth'], 'checkpoint not found'),
            ([config, checkpoint, '--data-root', tmp_path / 'none'], 'data root not found'),
            ([config, checkpoint, '--data-root', tmp_path / 'empty'], 'training'),
            ([config, checkpoint, '--within', 'nowhere'], "within: .*'nowhere'"),
            ([config, checkpoint, '--num-images', '3'], '--num-images'),
            ([config, checkpoint, '--budget', '2'], 'budget'),
            ([config, checkpoint, '--groups', '3', '3', '--expansion', '4'], 'groups=')):
        with pytest.raises(SystemExit) as status:
            dense2scheme([*map(str, words[:2]), str(tmp_path / 'out'), '--no-test',
                          *map(str, words[2:])])
        error = capsys.readouterr().err
        assert status.value.code == 2 and re.search(message, error), error
        assert error.count('\n') == 1 and error.startswith('error: '), error


def test_a_part_of_a_model_and_a_folder_of_another(scenes, tmp_path, safe_checkpoints):
    config, checkpoint = dense_model('upernet', scenes, tmp_path)
    job = Conversion(str(config), str(checkpoint), tmp_path / 'out', Form((2, 2), 4),
                     within=['backbone.stages.[23]'], num_images=8, test=False)
    new, weights = convert_dense(job, say=lambda line: None)
    assert new.name == 'upernet_22e4.py'
    model, _ = load_model(Config.fromfile(new), str(weights))
    assert sum(isinstance(m, SCHEMEMixer) for m in model.modules()) == 3
    for other in (dict(seed=1), dict(within=None), dict(exclude=['backbone.stages.3'])):
        with pytest.raises(ValueError, match=next(iter(other))):
            convert_dense(job._replace(**other))
