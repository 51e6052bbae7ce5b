"""The installed package: a wheel, a project outside the clone, the README."""
import os
import re
import runpy
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine import Config
from mmengine.registry import MODELS
from mmseg.visualization import SegLocalVisualizer
from packaging.requirements import Requirement

import mmscheme
from mmscheme.datasets.scenes import write_scenes
from tests.utils import README, REPOSITORY, SHORT, readme_code, readme_commands, readme_names, run


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    """A folder with nothing but what a wheel of mmscheme installs."""
    folder = tmp_path_factory.mktemp('wheel')
    source = shutil.copytree(REPOSITORY, folder / 'source', ignore=shutil.ignore_patterns(
        '.*', 'work_dirs', 'data', 'build', '*.egg-info', '__pycache__'))
    pip = [sys.executable, '-m', 'pip', '-q', '--disable-pip-version-check']
    run(*pip, 'wheel', '--no-deps', '--no-build-isolation', '-w', folder, source)
    wheel, = folder.glob('mmscheme-*.whl')
    run(*pip, 'install', '--no-deps', '--target', folder / 'site', wheel)
    shutil.rmtree(source)
    return folder / 'site'


@pytest.fixture(scope='module')
def ade20k(tmp_path_factory):
    """Scenes with the ids of ADE20K's classes."""
    return write_scenes(tmp_path_factory.mktemp('ade') / 'scenes', 4, 2, (64, 80), ids='ade20k')


def test_wheel_has_configs_and_tools(installed):
    mim = installed / 'mmscheme' / '.mim'
    assert (mim / 'model-index.yml').read_text() == (REPOSITORY / 'model-index.yml').read_text()
    for folder in ('configs', 'tools'):
        names = {str(p.relative_to(REPOSITORY / folder)) for p in (REPOSITORY / folder).rglob('*')
                 if p.is_file() and '__pycache__' not in p.parts}
        assert names == {str(p.relative_to(mim / folder)) for p in (mim / folder).rglob('*')
                         if p.is_file() and p.suffix != '.pyc'}
    for name in ('py.typed', 'analysis/report.html', 'ops/cpu/channel_mixer.cpp'):
        assert (installed / 'mmscheme' / name).exists()
    assert f'mmscheme-{mmscheme.__version__}.dist-info' in {p.name for p in installed.iterdir()}


def test_extras_are_the_requirements(installed):
    found, = distributions(path=[str(installed)])
    listed = [Requirement(line) for line in found.requires]
    assert {r.name for r in listed if not r.marker} == {'torch', 'numpy', 'safetensors'}
    extras = set(found.metadata.get_all('Provides-Extra'))
    assert extras >= {'openmmlab', 'seg', 'det', 'cls', 'onnx', 'openvino', 'hub', 'labels', 'docs',
                      'dev'}

    def names(extra):
        return {r.name for r in listed if f'extra == "{extra}"' in str(r.marker)}

    every, pins = names('openmmlab'), {str(r).split(';')[0].strip() for r in listed}
    assert 'mmdet==3.3.0' in pins and 'mmengine' in every
    assert names('seg') == every - {'mmdet', 'mmpretrain'}
    for extra, own in (('det', 'mmdet'), ('cls', 'mmpretrain')):
        assert names(extra) == every - {'mmdet', 'mmpretrain', 'mmsegmentation', 'ftfy',
                                        'regex'} | {own}
    for extra in extras - {'openmmlab', 'seg', 'det', 'cls'}:
        file = (REPOSITORY / 'requirements' / f'{extra}.txt').read_text()
        assert all(name.replace('-', '_') in file.replace('-', '_') for name in names(extra))


@pytest.mark.slow
@pytest.mark.parametrize('task, others', [
    ('upernet', 'mmdet mmpretrain'), ('mask_rcnn', 'mmseg mmpretrain'), ('cls', 'mmseg mmdet')])
def test_one_framework_is_enough(task, others, scenes, tmp_path):
    """As after ``pip install 'mmscheme[seg]'``, in a process that cannot import the others."""
    run(sys.executable, '-c', f"""
import sys
sys.modules.update(dict.fromkeys({others.split()}))
from tests.models import tiny_run, train
assert train(tiny_run({task!r}, {str(scenes)!r}, {str(tmp_path)!r}))
""")


@pytest.mark.slow
def test_editable_install_links_configs_tools_and_index(tmp_path):
    source = shutil.copytree(REPOSITORY, tmp_path / 'source', ignore=shutil.ignore_patterns(
        '.*', 'work_dirs', 'data', 'build', '*.egg-info', '__pycache__', 'tests'))
    run(sys.executable, '-m', 'pip', '-q', '--disable-pip-version-check', 'install', '--no-deps',
        '--no-build-isolation', '--ignore-installed', '--prefix', tmp_path / 'prefix', '-e',
        source, cwd=tmp_path)
    for name in ('configs', 'tools', 'model-index.yml'):
        assert (source / 'mmscheme' / '.mim' / name).resolve() == source / name


@pytest.mark.slow
def test_readme_project_outside_the_clone(installed, ade20k, tmp_path):
    config = readme_code('own project config')
    code = [line for line in config.splitlines() if line.strip() and not line.startswith('#')]
    assert len(code) <= 10
    (tmp_path / 'my_config.py').write_text(config)
    # The README's project has 3 classes of its own: reduce the masks to that many.
    root = write_scenes(tmp_path / 'data' / 'mine', 4, 2, (64, 80))
    for path in root.glob('annotations/*/*.png'):
        cv2.imwrite(str(path), np.minimum(cv2.imread(str(path), -1), 3))
    environment = dict(PYTHONPATH=str(installed))
    where = run(sys.executable, '-c', 'import mmscheme; print(mmscheme.__file__)', cwd=tmp_path,
                **environment)
    assert where.startswith(str(installed))
    command, = readme_commands('own project')
    log = run(sys.executable, *command[1:], '--cfg-options', *SHORT, cwd=tmp_path,
              **environment)
    assert 'mIoU' in log and (tmp_path / 'work_dirs' / 'my_config' / 'iter_1.pth').exists()
    state = torch.load(tmp_path / 'work_dirs' / 'my_config' / 'iter_1.pth',
                       weights_only=True)['state_dict']
    assert state['decode_head.conv_seg.weight'].shape[0] == 3


@pytest.mark.slow
def test_readme_commands(ade20k, tmp_path):
    work_dir = tmp_path / 'w'
    for words in readme_commands('segmentation'):
        assert words[0] == 'python'
        words[0] = sys.executable
        for i, word in enumerate(words):
            if word.endswith('ADEChallengeData2016'):
                words[i] = str(ade20k)
            elif word.endswith('.pth'):
                words[i] = str(work_dir / 'iter_1.pth')
            elif words[i - 1] == '--show-dir':
                words[i] = str(tmp_path / 'pictures')
        log = run(*words, '--work-dir', work_dir, '--cfg-options', *SHORT)
        assert 'mIoU' in log
    assert len(list((tmp_path / 'pictures').iterdir())) == 2


@pytest.mark.slow
def test_readme_detection_commands(tmp_path):
    """As written, in a folder of its own that has the clone's configs and tools."""
    for name in ('configs', 'tools'):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    write_scenes(tmp_path / 'data' / 'scenes', 4, 2, (64, 80))
    commands = {Path(words[1]).stem: words[1:] for words in readme_commands('detection')}
    assert set(commands) == {'make_scenes', 'train', 'test', 'check_config', 'get_flops',
                             'browse_dataset', 'publish_model'}
    short = ['train_dataloader.num_workers=0', 'val_dataloader.num_workers=0',
             'test_dataloader.num_workers=0', 'train_cfg.val_interval=8',
             'train_dataloader.batch_size=4', 'model.train_cfg.rpn_proposal.max_per_img=20']
    for tool, *arguments in (commands[name] for name in ('train', 'test', 'browse_dataset')):
        options = [] if '--cfg-options' in arguments else ['--cfg-options']
        log = run(sys.executable, tool, *arguments, *options, *short, cwd=tmp_path)
        if tool.endswith('test.py'):
            assert 'coco/segm_mAP' in log and '| ball' in log
    assert len(list((tmp_path / 'pictures').iterdir())) == 2 + 4
    for tool, *arguments in (commands[name] for name in (
            'check_config', 'get_flops', 'publish_model')):
        run(sys.executable, tool, *arguments, cwd=tmp_path)
    published, = tmp_path.glob('mask_rcnn_scheme_s_demo-*.pth')
    run(sys.executable, 'tools/test.py', commands['test'][1], published, '--cfg-options',
        'test_dataloader.num_workers=0', cwd=tmp_path)


@pytest.mark.slow
def test_readme_converter_commands(scenes, tmp_path):
    """As written but for the data: a small network, and the objects of the scenes."""
    from mmpretrain.models import PoolFormer
    for name in ('configs', 'tools'):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    torch.save(PoolFormer('s12').state_dict(), tmp_path / 'poolformer_s12.pth.tar')
    commands = {Path(words[1]).stem: words[1:] for words in readme_commands('converters')}
    assert set(commands) == {'metaformer2mmscheme', 'mmscheme2timm', 'dense2scheme'}
    for name in ('metaformer2mmscheme', 'mmscheme2timm'):
        run(sys.executable, *commands.pop(name), cwd=tmp_path)
    assert (tmp_path / 'timm.pth').exists()
    tool, name, _, *arguments = commands['dense2scheme']
    data = '\n'.join(
        f"{split}_dataloader = dict(batch_size=12, num_workers=0, persistent_workers=False, "
        f"dataset=dict(_delete_=True, type='CustomDataset', data_root='', data_prefix='{folder}', "
        f'pipeline=_base_.{pipeline}_pipeline))' for split, folder, pipeline in (
            ('train', 'train', 'train'), ('val', 'val', 'test'), ('test', 'val', 'test')))
    (tmp_path / 'dense.py').write_text(
        f"_base_ = '{REPOSITORY / name}'\n"
        'model = dict(backbone=dict(arch=dict(_delete_=True, depths=(1, 1, 1, 1),\n'
        '                                     embed_dims=(32, ) * 4)),\n'
        '             data_preprocessor=dict(num_classes=6),\n'
        f'             head=dict(in_channels=32, num_classes=6))\n{data}\n')
    dense = Config.fromfile(tmp_path / 'dense.py')
    torch.save(MODELS.build(dict(dense.model, _scope_='mmpretrain')).state_dict(),
               tmp_path / 'dense.pth')
    arguments = [str(scenes / 'objects') if a == '/data/imagenet' else a for a in arguments]
    log = run(sys.executable, tool, 'dense.py', 'dense.pth', *arguments, '--num-images', '24',
              '--finetune-iters', '2', cwd=tmp_path)
    assert '| fine-tuned |' in log and '| top1 |' in log
    run(sys.executable, 'tools/test.py', *log.split()[-2:], '--data-root', scenes / 'objects',
        cwd=tmp_path)


@pytest.mark.slow
def test_readme_tools_after_the_demo(scenes, tmp_path, monkeypatch):
    """As written, on a smaller network, in one process and a folder of its own."""
    for name in ('analysis_tools', 'deploy'):
        (tmp_path / 'tools').mkdir(exist_ok=True)
        (tmp_path / 'tools' / name).symlink_to(REPOSITORY / 'tools' / name)
    (tmp_path / 'benchmarks').symlink_to(REPOSITORY / 'benchmarks')
    for path in (REPOSITORY / 'tools').glob('*.py'):
        (tmp_path / 'tools' / path.name).symlink_to(path)
    (tmp_path / 'configs').mkdir()
    for path in (REPOSITORY / 'configs').glob('cls*.py'):
        (tmp_path / 'configs' / path.name).write_text(f"_base_ = '{path}'\n")
    (tmp_path / 'configs' / 'upernet_scheme_s_demo.py').write_text(
        f"_base_ = '{REPOSITORY}/configs/upernet_scheme_s_demo.py'\n"
        "arch = dict(_delete_=True, depths=(1, 1, 1, 1), embed_dims=(8, 16, 32, 64))\n"
        'model = dict(backbone=dict(arch=arch),\n'
        '             decode_head=dict(in_channels=[8, 16, 32, 64], channels=16),\n'
        '             auxiliary_head=dict(in_channels=32, channels=16))\n'
        'train_dataloader = dict(num_workers=0, batch_size=2)\n'
        'test_dataloader = dict(num_workers=0)\n'
        'train_cfg = dict(max_iters=3, val_interval=9)\n'
        'default_hooks = dict(logger=dict(interval=1))\n')
    shutil.copytree(scenes, tmp_path / 'data' / 'scenes')
    image = next((scenes / 'images' / 'validation').iterdir())
    shutil.copy(image, tmp_path / 'image.jpg')
    monkeypatch.chdir(tmp_path)

    def execute(tool, *arguments):
        # One process: the visualizer of a test before would write to its own folder.
        SegLocalVisualizer._instance_dict.clear()
        monkeypatch.setattr(sys, 'argv', [tool, *arguments])
        runpy.run_path(tool, run_name='__main__')

    execute('tools/train.py', 'configs/upernet_scheme_s_demo.py')
    folder = tmp_path / 'work_dirs' / 'upernet_scheme_s_demo'
    (folder / 'iter_3.pth').rename(folder / 'iter_300.pth')
    commands = readme_commands('after the demo')
    assert {Path(words[1]).stem for words in commands} == {
        'test', 'plot_mixing_weights', 'predict', 'pareto', 'fold', 'export'}
    for _, tool, *arguments in commands:
        execute(tool, *arguments, *(['--runs', '0'] if 'pareto' in tool else []))
    for name in ('report/report.html', 'mixing_weights.png', 'pareto.png', 'pictures/image.jpg',
                 'segmenter.pth', 'segmenter.py', 'segmenter.onnx', 'exported/image.jpg',
                 'masks/image.png'):
        assert (tmp_path / name).is_file(), name
    ours, expected = (cv2.imread(str(tmp_path / d / 'image.jpg')).astype(int)
                      for d in ('exported', 'pictures'))
    assert (np.abs(ours - expected).max(-1) > 0).mean() < 1e-3


@pytest.mark.parametrize('name', ['model of your own', 'layers'])
def test_readme_python(name):
    assert readme_names(name, {})


def test_readme_names_what_exists():
    for path in re.findall(r'(?:configs|tools|docs|requirements)/[\w./-]+\w', README):
        assert (REPOSITORY / path).exists() or '{' in path, path
    for name in ('demo', 'test'):
        assert f'python3 tools/dev.py {name}' in README


def test_config_paths():
    path = Path(mmscheme.get_config_path('upernet_scheme_s_ade20k.py'))
    assert Config.fromfile(path).model.backbone.type == 'mmscheme.SCHEMEformer'
    with pytest.raises(FileNotFoundError, match="no config 'x.py' .* upernet_scheme_s_demo.py"):
        mmscheme.get_config_path('x.py')


@pytest.mark.slow
def test_register_all_modules():
    code = ('import mmscheme; mmscheme.register_all_modules({})\n'
            'from mmengine.registry import MODELS, HOOKS, DATASETS, DefaultScope\n'
            'children = [r._search_child("mmscheme") for r in (MODELS, HOOKS, DATASETS)]\n'
            'print(DefaultScope.get_current_instance() and "scope",\n'
            '      all(c.module_dict for c in children))')
    python = [sys.executable, '-W', 'ignore', '-c']
    assert 'None True' in run(*python, code.format(''))
    assert 'scope True' in run(*python, code.format('True'))


def test_module_command_has_the_tools(installed):
    folder = REPOSITORY / 'tools'
    names = {p.relative_to(folder).with_suffix('').as_posix() for p in folder.rglob('*.py')}
    assert len({n.split('/')[-1] for n in names}) == len(names) - 1  # predict
    expected = {n.split('/')[-1] for n in names} - {'dev'} | {'predict_exported'}
    for place in (REPOSITORY, installed):  # a clone, and what a wheel installs
        result = subprocess.run([sys.executable, '-m', 'mmscheme', 'trian'], capture_output=True,
                                text=True, cwd='/', env={**os.environ, 'PYTHONPATH': str(place)})
        assert result.returncode == 2
        assert set(re.search(r'one of (.*)\.', result.stderr)[1].split(', ')) == expected


@pytest.mark.slow
def test_module_command_runs_the_tools():
    for tool in ('train', 'mmscheme2timm', 'predict_exported'):
        out = run(sys.executable, '-m', 'mmscheme', tool, '--help')
        assert f'usage: python -m mmscheme {tool}' in out
    assert 'IMAGE' in out  # and not tools/predict.py
