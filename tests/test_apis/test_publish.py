"""Checkpoints to give away."""
import hashlib

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmscheme.apis.config import load_config
from mmscheme.apis.publish import publish
from mmscheme.models.loading import build_model
from tests.commands import load_tool
from tests.utils import REPOSITORY, RunsCode

main = load_tool('misc/publish_model').main


@pytest.fixture
def training(tmp_path):
    """A checkpoint as upstream mmengine writes it, with a view of a large tensor in it."""
    weights = {'backbone.w': torch.randn(1000, 10)[:3], 'head.b': torch.arange(4)}
    history = HistoryBuffer([1., 2.], [1, 1])
    torch.save(dict(
        meta=dict(dataset_meta=dict(classes=('a', 'b'), palette=np.eye(3)), epoch=3, iter=7,
                  config='import os', seed=1, hook_msgs=dict(best_score=np.float64(0.5))),
        state_dict=weights, optimizer=dict(state={0: torch.randn(100, 100)}),
        ema_state_dict=weights, message_hub=dict(log_scalars={'train/loss': history})),
        tmp_path / 'epoch_3.pth')
    return tmp_path / 'epoch_3.pth', weights


def test_weights_and_classes_are_kept_and_nothing_else(training, tmp_path):
    path, weights = training
    published = publish(path, tmp_path / 'new' / 'model.pth')
    digest = hashlib.sha256(published.read_bytes()).hexdigest()
    assert published.name == f'model-{digest[:8]}.pth'
    assert [p.name for p in published.parent.iterdir()] == [published.name]
    content = torch.load(published, weights_only=True)
    assert set(content) == {'meta', 'state_dict'}
    assert set(content['meta']) == {'dataset_meta', 'epoch', 'iter', 'mmscheme_version'}
    assert tuple(content['meta']['dataset_meta']['classes']) == ('a', 'b')
    assert all(torch.equal(v, weights[k]) for k, v in content['state_dict'].items())
    assert published.stat().st_size < 4000 < path.stat().st_size / 10
    assert published == publish(path, tmp_path / 'new' / 'model.pth')  # the same name again


def test_half_precision_with_the_config(tmp_path):
    path = f'{REPOSITORY}/configs/cls_scheme_s_demo.py'
    arch = dict(_delete_=True, depths=(1, 1, 1, 1), embed_dims=(8, 16, 32, 32))
    cfg = load_config(path, cfg_options={'model.backbone.arch': arch,
                                         'model.head.in_channels': 32})
    model = build_model(cfg)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'epoch_1.pth')
    published = publish(tmp_path / 'epoch_1.pth', tmp_path / 'm.pth', half=True, cfg=cfg)
    weights = torch.load(published, weights_only=True)['state_dict']
    for key, value in model.state_dict().items():
        assert weights[key].dtype == torch.float16 and torch.equal(weights[key], value.half()), key
    other = build_model(load_config(published.with_suffix('.py')))
    other.load_state_dict(weights)
    for key, value in other.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, weights[key].float())


def test_the_config_that_is_read_is_kept(training, tmp_path):
    path, _ = training
    (tmp_path / 'a.py').write_text('model = dict(depth=1)\n')
    published = publish(path, tmp_path / 'model.pth', cfg=load_config(tmp_path / 'a.py'))
    beside = published.with_suffix('.py')
    beside.write_text('# mine\nmodel = dict(depth=2)\n')
    published.unlink()
    with pytest.raises(ValueError, match=f'{beside}: would replace the config that is read'):
        publish(path, tmp_path / 'model.pth', cfg=load_config(beside))
    assert '# mine' in beside.read_text() and not published.exists()


def test_values_beyond_half_precision(tmp_path):
    torch.save(dict(state_dict={'w': torch.tensor([1e6])}), tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='w: its values are beyond float16'):
        publish(tmp_path / 'a.pth', tmp_path / 'b.pth', half=True)


def test_command_and_its_errors(training, tmp_path, capsys):
    path, _ = training
    main([str(path), str(tmp_path / 'model.pth')])
    assert 'MiB -> 0.0 MiB' in capsys.readouterr().out
    torch.save(dict(state_dict={'a': RunsCode(tmp_path / 'ran')}), tmp_path / 'bad.pth')
    torch.save(dict(optimizer={}), tmp_path / 'empty.pth')
    before = sorted(tmp_path.iterdir())
    for source, target, message in (
            ('none.pth', 'x.pth', 'checkpoint not found: '), ('bad.pth', 'x.pth', 'bad.pth'),
            ('empty.pth', 'x.pth', "with tensors by key, found ['optimizer']"),
            ('epoch_3.pth', 'x.bin', 'expected a name *.pth or *.safetensors to write')):
        with pytest.raises(SystemExit) as status:
            main([str(tmp_path / source), str(tmp_path / target)])
        error = capsys.readouterr().err
        assert status.value.code == 2 and error.startswith('error: ') and message in error
        assert error.count('\n') == 1
    assert sorted(tmp_path.iterdir()) == before


def test_only_float32_is_halved(tmp_path):
    weights = dict(steps=torch.tensor([2049, 70000]), mask=torch.tensor([True, False]),
                   exact=torch.ones(2, dtype=torch.float64), w=torch.ones(2))
    torch.save(dict(state_dict=weights), tmp_path / 'a.pth')
    path = publish(tmp_path / 'a.pth', tmp_path / 'b.pth', half=True)
    found = torch.load(path, weights_only=True)['state_dict']
    assert found.pop('w').dtype == torch.float16
    for key, value in found.items():
        assert value.dtype == weights[key].dtype and value.equal(weights[key]), key
