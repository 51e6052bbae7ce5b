"""Safetensors wherever checkpoints are: the same weights, and the same errors, as from ``.pth``."""
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from mmengine import Config
from mmengine.runner import CheckpointLoader, Runner
from mmengine.runner.checkpoint import load_checkpoint as mmengine_load_checkpoint

from mmscheme.apis.publish import publish
from mmscheme.apis.test import test as run_test
from mmscheme.checks import Findings
from mmscheme.checks.checkpoint import check_checkpoint
from mmscheme.deploy.fold import write_deployed
from mmscheme.engine.hooks import PretrainedBackboneHook
from mmscheme.models import SCHEMEformer
from mmscheme.models.loading import build_model, load_model
from mmscheme.utils.checkpoint_io import load_checkpoint, read_weights, save_checkpoint
from mmscheme.utils.safetensors_io import safetensors_bytes
from tests.commands import load_tool
from tests.fake_hub import FakeHub
from tests.models import TINY, tiny_checkpoint, tiny_run, train

pytestmark = pytest.mark.usefixtures('safe_checkpoints')

META = dict(dataset_meta=dict(classes=('a', 'b'), palette=[(1, 2, 3), (4, 5, 6)],
                              reduce_zero_label=False), epoch=3, iter=7)


def same(a, b):
    return set(a) == set(b) and all(
        torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in b)


@pytest.fixture
def weights(tmp_path):
    """A checkpoint in both formats, and its weights."""
    torch.manual_seed(0)
    state = SCHEMEformer(TINY).state_dict()
    content = dict(meta=META, state_dict={f'backbone.{k}': v for k, v in state.items()})
    torch.save(content, tmp_path / 'x.pth')
    save_checkpoint(content, tmp_path / 'x.safetensors')
    return tmp_path / 'x.safetensors', state


def test_published_weights_come_back(weights, tmp_path):
    shared = torch.randn(4, 6)
    state = {'view': shared[:2], 'turned': shared.t(), 'count': torch.tensor(3),
             'none': torch.zeros(0, 2), 'low': torch.ones(2, dtype=torch.bfloat16)}
    torch.save(dict(meta=dict(META, dataset_meta=dict(classes=('a', 'b'), palette=np.eye(3))),
                    state_dict=state, optimizer={}), tmp_path / 'epoch_3.pth')
    published = publish(tmp_path / 'epoch_3.pth', tmp_path / 'm.safetensors')
    digest = hashlib.sha256(published.read_bytes()).hexdigest()
    assert published.name == f'm-{digest[:8]}.safetensors'
    assert same(safetensors.torch.load_file(published), state)  # the library itself
    content = load_checkpoint(str(published))
    assert same(content['state_dict'], state)
    assert content['meta']['dataset_meta'] == dict(
        classes=('a', 'b'), palette=[(1, 0, 0), (0, 1, 0), (0, 0, 1)])
    assert content['meta']['iter'] == 7
    # Published again, from what was published and to the other format.
    assert publish(published, tmp_path / 'm.safetensors') == published
    back, meta = read_weights(str(publish(published, tmp_path / 'm.pth')))
    assert same(back, state) and meta['dataset_meta'] == content['meta']['dataset_meta']
    half, _ = read_weights(str(publish(published, tmp_path / 'half.safetensors', half=True)))
    assert torch.equal(half['view'], state['view'].half()) and half['count'].dtype == torch.int64
    file, _ = weights
    assert load_checkpoint(str(file))['meta'] == META


def test_the_bytes_are_the_same_each_time(weights):
    content = load_checkpoint(str(weights[0]))
    assert {safetensors_bytes(content) for _ in range(20)} == {weights[0].read_bytes()}


def test_it_is_read_wherever_a_checkpoint_is(weights):
    path, state = weights
    assert same(CheckpointLoader.load_checkpoint(str(path))['state_dict'],
                {f'backbone.{k}': v for k, v in state.items()})
    model = SCHEMEformer(TINY, init_cfg=dict(type='Pretrained', checkpoint=str(path),
                                             prefix='backbone.'))
    model.init_weights()
    assert same(model.state_dict(), state)
    holder = torch.nn.Module()
    holder.backbone = SCHEMEformer(TINY)
    mmengine_load_checkpoint(holder, str(path), strict=True)
    assert same(holder.backbone.state_dict(), state)
    plain = path.with_name('renamed.pth')  # by its content, whatever its name
    plain.write_bytes(path.read_bytes())
    assert same(load_checkpoint(str(plain))['state_dict'], load_checkpoint(str(path))['state_dict'])


@pytest.mark.slow
def test_training_starts_from_it(scenes, tmp_path):
    config, source, _ = tiny_checkpoint('upernet', tmp_path)
    published = publish(source, tmp_path / 'm.safetensors')
    ends = []
    for checkpoint in (source, str(published)):
        cfg = tiny_run('upernet', scenes, tmp_path / Path(checkpoint).suffix, load_from=checkpoint)
        cfg.train_cfg.max_iters = 3
        ends.append(train(cfg)['state_dict'])
    assert same(*ends)
    assert not same(ends[0], load_checkpoint(source)['state_dict'])


def test_a_pretrained_backbone(weights):
    path, state = weights
    runner = Runner.__new__(Runner)
    runner.model, runner._train_loop = torch.nn.Module(), None
    runner.model.backbone = SCHEMEformer(TINY)
    PretrainedBackboneHook(str(path)).before_train(runner)
    assert same(runner.model.backbone.state_dict(), state)


@pytest.mark.slow
def test_tests_folds_and_converters_take_it(scenes, tmp_path):
    config, source, cfg = tiny_checkpoint('upernet', tmp_path)
    published = str(publish(source, tmp_path / 'm.safetensors'))
    metrics = []
    for checkpoint in (source, published):
        run_cfg = tiny_run('upernet', scenes, tmp_path / 'w')
        run_cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
        metrics.append(run_test(run_cfg, checkpoint).metrics)
    assert metrics[0] == metrics[1] and 'mIoU' in metrics[0]

    target, new_config, *_ = write_deployed(cfg, published, tmp_path / 'folded.safetensors')
    load_model(Config.fromfile(new_config), str(target))
    load_tool('model_converters/mmscheme2timm').main([published, str(tmp_path / 't.safetensors')])
    load_tool('model_converters/mmscheme2timm').main([source, str(tmp_path / 't.pth')])
    timm = safetensors.torch.load_file(tmp_path / 't.safetensors')
    assert same(timm, torch.load(tmp_path / 't.pth')) and 'stem.conv.weight' in timm


def damage(data):
    """Damaged files by name."""
    length = int.from_bytes(data[:8], 'little')
    header = json.loads(data[8:8 + length])
    key = next(k for k in header if k != '__metadata__')

    def with_header(**changes):
        text = json.dumps({**header, **changes}).encode()
        return len(text).to_bytes(8, 'little') + text + data[8 + length:]

    deep = '[' * 100_000 + ']' * 100_000
    return dict(
        empty=b'', cut=data[:-1], cut_header=data[:length // 2], html=b'<html>not found</html>',
        too_large_a_header=(10**9).to_bytes(8, 'little') + data[8:],
        larger_than_the_file=(len(data)).to_bytes(8, 'little') + data[8:],
        endless=b'\xff' * 8 + data[8:], no_json=data[:8] + b'x' + data[9:],
        outside=with_header(**{key: dict(header[key], data_offsets=[0, 10**12])}),
        shape=with_header(**{key: dict(header[key], shape=[10**9, 10**9])}),
        dtype=with_header(**{key: dict(header[key], dtype='F1024')}),
        meta=with_header(__metadata__=dict(mmscheme='{"iter": ')),
        deep_meta=with_header(__metadata__=dict(mmscheme=deep)))


@pytest.mark.parametrize('kind', damage(safetensors.torch.save({'a': torch.zeros(3)})))
@pytest.mark.parametrize('name', ['bad.safetensors', 'bad.pth'])
def test_a_damaged_file_is_one_line(kind, name, weights, tmp_path):
    path = tmp_path / name
    path.write_bytes(damage(weights[0].read_bytes())[kind])
    for load in (load_checkpoint, CheckpointLoader.load_checkpoint, read_weights,
                 lambda p: mmengine_load_checkpoint(SCHEMEformer(TINY), p)):
        with pytest.raises(ValueError, match=str(path)) as error:
            load(str(path))
        assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 600
    for use in ('test', 'resume', 'load_from'):
        findings = Findings()
        check_checkpoint(str(path), None, use, findings)
        assert len(findings.errors) == 1 and str(path) in findings.errors[0]


def test_what_does_not_fit_is_named_as_for_pth(tmp_path):
    _, source, cfg = tiny_checkpoint('upernet', tmp_path)
    content = torch.load(source)
    state = content['state_dict']
    changed = dict(state, extra=torch.ones(1))
    changed['backbone.norm0.weight'] = torch.ones(3)
    del changed['decode_head.conv_seg.bias']
    lines = []
    for suffix in ('pth', 'safetensors'):
        path = tmp_path / f'changed.{suffix}'
        save_checkpoint(dict(content, state_dict=changed), path)
        found = []
        for use in ('test', 'load_from', 'resume'):
            findings = Findings()
            check_checkpoint(str(path), build_model(cfg), use, findings)
            found += [*findings.errors, *findings.warnings]
        with pytest.raises(ValueError, match='decode_head.conv_seg.bias') as error:
            load_model(cfg, str(path))
        # The order of the keys is the file's.
        lines.append([sorted(line.replace(str(path), 'FILE')) for line in (
            *found, str(error.value))])
    assert lines[0] == lines[1] and len(lines[0]) >= 5
    findings = Findings()
    check_checkpoint(str(publish(source, tmp_path / 'm.safetensors')), None, 'resume', findings)
    assert 'no training to resume in it' in findings.errors[0]
    missing = str(tmp_path / 'no.safetensors')
    with pytest.raises(FileNotFoundError, match=missing):
        load_checkpoint(missing)
    with pytest.raises(ValueError, match='safetensors can hold'):
        save_checkpoint({'a': torch.eye(2).to_sparse()}, tmp_path / 'sparse.safetensors')
    assert not (tmp_path / 'sparse.safetensors').exists()


def test_code_in_the_metadata_is_dropped(tmp_path):
    path = tmp_path / 'x.safetensors'
    save_checkpoint(dict(meta=dict(cfg='import os; os.abort()', iter=3),
                         state_dict={'a': torch.zeros(1)}), path)
    assert load_checkpoint(str(path))['meta'] == dict(iter=3)
    safetensors.torch.save_file({'a': torch.zeros(1)}, path, {'format': 'pt'})  # of others
    assert load_checkpoint(str(path)) == dict(meta={}, state_dict={'a': torch.zeros(1)})
    safetensors.torch.save_file({'a': torch.zeros(1)}, path)
    assert load_checkpoint(str(path))['meta'] == {}


def test_files_of_one_name_at_two_addresses(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    with FakeHub() as server:
        for owner, value in (('a', 1.), ('b', 2.)):
            server.repos[f'{owner}/m'] = {
                'model.safetensors': safetensors.torch.save({'w': torch.tensor(value)})}
        for _ in range(2):
            for owner, value in (('a', 1.), ('b', 2.)):
                address = f'{server.address}/{owner}/m/resolve/main/model.safetensors'
                for load in (load_checkpoint, CheckpointLoader.load_checkpoint):
                    assert load(address)['state_dict']['w'] == value
        assert len(server.requests) == 2  # then what was kept
        findings = Findings()
        check_checkpoint(address, SCHEMEformer(TINY), 'test', findings)
        assert 'not a checkpoint of this config' in findings.errors[0]
        with pytest.raises(ValueError, match='not a readable checkpoint: .*no.safetensors'):
            load_checkpoint(f'{server.address}/a/m/resolve/main/no.safetensors')
