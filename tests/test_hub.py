"""Weights from the Hugging Face Hub and to it, with a hub in this process."""
import hashlib
import re
import sys

import pytest
import torch
from huggingface_hub import ModelCard, constants
from mmengine.runner import CheckpointLoader

from mmscheme.models import SCHEMEformer
from mmscheme.utils.checkpoint_io import read_weights, save_checkpoint
from tests.commands import load_tool
from tests.fake_hub import COMMIT, FakeHub
from tests.models import TINY, tiny_checkpoint
from tests.utils import REPOSITORY, RunsCode, readme_code, run

publish_model = load_tool('misc/publish_model').main


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub of our own, and an empty cache."""
    with FakeHub() as server:
        monkeypatch.setattr(constants, 'ENDPOINT', server.address)
        monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE',
                            server.address + '/{repo_id}/resolve/{revision}/{filename}')
        monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
        monkeypatch.setenv('HF_TOKEN', 'hf_test')
        yield server


@pytest.fixture
def weights(tmp_path):
    """A checkpoint as training leaves it, and its weights."""
    state = SCHEMEformer(TINY).state_dict()
    torch.save(dict(state_dict={f'backbone.{k}': v for k, v in state.items()}, optimizer={},
                    meta=dict(iter=7, dataset_meta=dict(classes=('a', 'b|c')))),
               tmp_path / 'iter_7.pth')
    return tmp_path / 'iter_7.pth', state


def test_push_and_pull(hub, weights, tmp_path, capsys, safe_checkpoints):
    path, state = weights
    publish_model([str(path), str(tmp_path / 'm.pth'), '--safetensors', '--hub', 'me/scheme',
                   '--config', f'{REPOSITORY}/configs/upernet_scheme_s_demo.py',
                   '--license', 'Apache-2.0', '--metric', 'mIoU=41.5', 'aAcc=80'])
    published, = tmp_path.glob('m-*.safetensors')
    config, card = published.with_suffix('.py'), published.with_suffix('.md')
    assert hub.repos['me/scheme'] == {
        published.name: published.read_bytes(), config.name: config.read_bytes(),
        'README.md': card.read_bytes()}
    assert f'hub: {hub.address}/me/scheme/commit/{COMMIT}' in capsys.readouterr().out
    data = ModelCard(card.read_text()).data  # as the hub reads it
    assert data.license == 'apache-2.0' and data.pipeline_tag == 'image-segmentation'
    assert {(r.metric_type, r.metric_value, r.dataset_name) for r in data.eval_results} == {
        ('mIoU', 41.5, 'ScenesDataset'), ('aAcc', 80., 'ScenesDataset')}
    text = card.read_text()
    assert hashlib.sha256(published.read_bytes()).hexdigest() in text
    assert '| classes | 2: a, b\\|c |' in text and 'hf://me/scheme/' in text
    for source in ('hf://me/scheme', f'hf://me/scheme/{published.name}',
                   f'hf://me/scheme@{COMMIT}/{published.name}', f'hf://me/scheme@main/{published.name}'):
        for checkpoint in (CheckpointLoader.load_checkpoint(source), dict(
                zip(('state_dict', 'meta'), read_weights(source)))):
            assert checkpoint['meta']['dataset_meta'] == dict(classes=('a', 'b|c'))
            assert all(torch.equal(checkpoint['state_dict'][f'backbone.{k}'], v)
                       for k, v in state.items())
    assert sum(r.startswith('GET') and 'resolve' in r for r in hub.requests) == 1  # then the cache
    for init in ('hf://me/scheme', f'hf://me/scheme/{published.name}'):
        model = SCHEMEformer(TINY, init_cfg=dict(type='Pretrained', checkpoint=init,
                                                 prefix='backbone.'))
        model.init_weights()
        assert all(torch.equal(model.state_dict()[k], v) for k, v in state.items())


def test_what_is_not_there_is_one_line(hub, weights, tmp_path, monkeypatch):
    path, _ = weights
    torch.save(dict(state_dict={'a': RunsCode(tmp_path / 'ran')}), tmp_path / 'code.pth')
    save_checkpoint(dict(state_dict={'a': torch.ones(3)}), tmp_path / 'a.safetensors')
    hub.repos['me/two'] = {'a.pth': path.read_bytes(), 'b.pth': path.read_bytes()}
    hub.repos['me/code'] = {'a.pth': (tmp_path / 'code.pth').read_bytes()}
    hub.repos['me/cut'] = {'a.safetensors': (tmp_path / 'a.safetensors').read_bytes()[:-1]}
    hub.repos['me/none'] = {'README.md': b'# Hello'}
    for source, message in (
            ('hf://me', 'expected hf://OWNER/NAME'), ('hf://me/no', 'no such repository'),
            ('hf://me/no/a.pth', 'no such repository'), ('hf://me/two/c.pth', 'no such file'),
            ('hf://me/two@v9/a.pth', 'no such file or revision'), ('hf://me/two', 'a.pth, b.pth'),
            ('hf://me/none', 'found none'), ('hf://me/code', 'could run code'),
            ('hf://me/cut/a.safetensors', 'not a readable checkpoint')):
        with pytest.raises(ValueError, match=message) as error:
            read_weights(source)
        assert str(error.value).count(source) and '\n' not in str(error.value)
    assert not (tmp_path / 'ran').exists()
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    with pytest.raises(ValueError, match='cannot be reached'):
        read_weights('hf://me/two/b.pth')


def test_a_push_that_fails_leaves_the_files(hub, weights, tmp_path, capsys, monkeypatch):
    path, _ = weights
    monkeypatch.setenv('HF_TOKEN', 'hf_other')
    for repo, message in (('me', '--hub: expected OWNER/NAME, found me'), ('me/x', 'Invalid user')):
        with pytest.raises(SystemExit) as status:
            publish_model([str(path), str(tmp_path / 'm.pth'), '--hub', repo])
        error = capsys.readouterr().err
        assert status.value.code == 2 and message in error and error.count('\n') == 1
        assert bool(list(tmp_path.glob('m-*.pth'))) == (repo == 'me/x') and not hub.repos


@pytest.mark.slow
def test_the_commands_in_processes_of_their_own(scenes, tmp_path):
    config, checkpoint, _ = tiny_checkpoint('upernet', tmp_path)
    with FakeHub() as server:
        hub = dict(HF_ENDPOINT=server.address, HF_HOME=str(tmp_path / 'hf'), HF_TOKEN='hf_test')
        out = run(sys.executable, 'tools/misc/publish_model.py', checkpoint, tmp_path / 'm.pth',
                  '--safetensors', '--hub', 'me/scheme', **hub)
        assert f'hub: {server.address}/me/scheme' in out and len(server.repos['me/scheme']) == 2
        test = [sys.executable, 'tools/test.py', config, '--data-root', scenes, '--work-dir',
                tmp_path / 'w', '--cfg-options', 'test_dataloader.num_workers=0']
        logs = [run(*test[:3], source, *test[3:], **hub)
                for source in (checkpoint, 'hf://me/scheme')]
        assert len({re.findall(r'aAcc: .* mAcc: [\d.]+', log)[-1] for log in logs}) == 1


def test_the_documented_timm_model(tmp_path, monkeypatch):
    torch.manual_seed(0)
    ours = SCHEMEformer('s12').eval()
    for name, p in ours.named_parameters():
        if 'layer_scale' in name:
            torch.nn.init.uniform_(p, 0.3, 1)
    save_checkpoint(ours.state_dict(), tmp_path / 'scheme.safetensors')
    load_tool('model_converters/mmscheme2timm').main(
        [str(tmp_path / 'scheme.safetensors'), str(tmp_path / 'timm.safetensors')])
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(readme_code('timm'), names)
    assert all(re.match(r'norm[0-2]\.', k) for k in names['rest'].unexpected_keys)
    x = torch.rand(1, 3, 97, 65)
    theirs, expected = names['model'].forward_features(x), ours(x)[-1]
    assert (names['model'].head.norm(theirs) - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.slow
def test_the_documented_switch_in_stock_mmengine(weights, tmp_path):
    path, _ = weights
    save_checkpoint(torch.load(path), tmp_path / 'a.safetensors')
    (tmp_path / 'config.py').write_text(readme_code('safe checkpoints'))
    load = (f'from mmengine.runner import CheckpointLoader\n'
            f'CheckpointLoader.load_checkpoint({str(tmp_path / "a.safetensors")!r})\n')
    config = f'from mmengine import Config\nConfig.fromfile({str(tmp_path / "config.py")!r})\n'
    for code in ('import mmscheme\nmmscheme.use_safe_checkpoints()\n', config):
        run(sys.executable, '-c', code + load)
    assert 'Error' in run(sys.executable, '-c', 'import mmscheme\n' + load, fails=True)
