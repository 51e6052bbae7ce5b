"""Checkpoints to give away."""
import hashlib

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmscheme.apis.publish import main, publish
from tests.test_checkpoint import RunsCode


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


def test_command_and_its_errors(training, tmp_path, capsys):
    path, _ = training
    main([str(path), str(tmp_path / 'model.pth')])
    assert 'MiB -> 0.0 MiB' in capsys.readouterr().out
    torch.save(dict(state_dict={'a': RunsCode(tmp_path / 'ran')}), tmp_path / 'bad.pth')
    torch.save(dict(optimizer={}), tmp_path / 'empty.pth')
    before = sorted(tmp_path.iterdir())
    for source, target, message in (
            ('none.pth', 'x.pth', 'checkpoint not found: '), ('bad.pth', 'x.pth', 'bad.pth'),
            ('empty.pth', 'x.pth', "expected weights under state_dict, found ['optimizer']"),
            ('epoch_3.pth', 'x.bin', 'expected a name *.pth to write')):
        with pytest.raises(SystemExit) as status:
            main([str(tmp_path / source), str(tmp_path / target)])
        error = capsys.readouterr().err
        assert status.value.code == 2 and error.startswith('error: ') and message in error
        assert error.count('\n') == 1
    assert sorted(tmp_path.iterdir()) == before
