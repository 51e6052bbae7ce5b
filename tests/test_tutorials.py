"""Each tutorial, as it is written, on small data and for a short time."""
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import cv2
import mmdet
import mmseg
import numpy as np
import pytest
import torch
from mmengine import Config
from mmengine.registry import HOOKS, MODELS, VISBACKENDS, init_default_scope

from mmscheme.datasets.scenes import write_scenes
from mmscheme.layers import SCHEMEMixer
from tests.utils import PAGES, REPOSITORY, SHORT, SMALL, readme_code, run

BLOCK = r'<!-- test: {} -->\n```(\w+)(?: title="([^"]*)")?\n(.*?)```'
WORKERS = ['train_dataloader.num_workers=0', 'val_dataloader.num_workers=0',
           'test_dataloader.num_workers=0']
ONE_ITERATION = [*WORKERS, 'train_dataloader.persistent_workers=False',
                 'val_dataloader.persistent_workers=False', 'train_dataloader.batch_size=2',
                 'val_dataloader.batch_size=2', 'test_dataloader.persistent_workers=False']


def follow(name, folder, replace=(), **options):
    """Do what stands below a mark: write the files, run the commands; return what they print.

    Args:
        name: Of the mark.
        folder: To do it in.
        replace: Pairs of what is written there and what the test has in its place.
        **options: Values for ``--cfg-options`` by tool.
    """
    out = []
    for page in PAGES:
        for language, title, code in re.findall(BLOCK.format(name), page.read_text(), re.S):
            for old, new in replace:
                code = code.replace(old, str(new))
            if title:
                (folder / title).write_text(code)
            elif language == 'python':
                (folder / 'block.py').write_text(code)
                out.append(run(sys.executable, 'block.py', cwd=folder,
                               PYTHONPATH=str(REPOSITORY)))
            else:
                for line in code.splitlines():
                    words = shlex.split(line)
                    tool = Path(words[3] if words[1] == '-m' else words[0 if words[0].endswith(
                        '.sh') else 1]).stem
                    words[0] = sys.executable if words[0] == 'python' else words[0]
                    values = options.get(tool, ())
                    out.append(run(*words, *(['--cfg-options', *values] if values else []),
                                   cwd=folder, PYTHONPATH=str(REPOSITORY),
                                   PYTHON=sys.executable))
    assert out or any(folder.glob('*.py')), f'no page has a block below {name}'
    return '\n'.join(out)


@pytest.fixture
def clone(tmp_path):
    """A folder with the configs and tools of the clone."""
    for name in ('configs', 'tools'):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    return tmp_path


def stock_config(package, name, folder, code):
    """Return a stock config with a block of a page after it."""
    path = Path(package.__file__).parent / '.mim' / 'configs' / name
    (folder / 'config.py').write_text(f"_base_ = '{path}'\n{code}")
    return Config.fromfile(folder / 'config.py')


def mixers(model):
    return [m for m in model.modules() if isinstance(m, SCHEMEMixer)]


@pytest.mark.parametrize('mark, base, count', [
    ('your config', '_base_/models/fpn_r50.py', 12),
    ('any backbone', '_base_/models/upernet_swin.py', 12)])
def test_snippets_for_stock_configs(tmp_path, mark, base, count):
    code = re.search(BLOCK.format(mark), PAGES[0].read_text(), re.S)[3]
    assert code.count('\n') == 3
    cfg = stock_config(mmseg, base, tmp_path, code)
    cfg.model.backbone.pop('init_cfg', None)
    init_default_scope('mmseg')
    for head in ('decode_head', 'auxiliary_head'):
        if head in cfg.model:
            cfg.model[head].norm_cfg = dict(type='BN')
    model = MODELS.build(cfg.model).eval()
    assert len(mixers(model)) == count
    with torch.no_grad():
        assert model.encode_decode(torch.rand(1, 3, 64, 64), [dict(
            ori_shape=(64, 64), img_shape=(64, 64), pad_shape=(64, 64))]).shape[2:] == (64, 64)
    for hook in cfg.get('default_hooks', {}).values():
        assert HOOKS.build(hook).factor(0.7) == pytest.approx(0.5)


def test_the_snippet_is_the_same_everywhere(tmp_path):
    """As in mmdet's scope, where the wrapper gets mmdet's Swin."""
    cfg = stock_config(mmdet, '_base_/models/mask-rcnn_r50_fpn.py', tmp_path, re.search(
        BLOCK.format('any backbone'),
        (REPOSITORY / 'docs/tutorials/any_backbone.md').read_text(), re.S)[3])
    init_default_scope('mmdet')
    assert len(mixers(MODELS.build(cfg.model.backbone))) == 12


def test_the_cca_schedule_changes_our_hook(tmp_path):
    (tmp_path / 'config.py').write_text(
        f"_base_ = '{REPOSITORY}/configs/cls_scheme_s_in1k.py'\n" + readme_code('cca schedule'))
    hook = HOOKS.build(Config.fromfile(tmp_path / 'config.py').default_hooks.mixing_schedule)
    assert [hook.factor(p) for p in (0.4, 0.7, 0.95)] == pytest.approx([1, 0.5, 0])


@pytest.mark.slow
def test_safe_checkpoints_by_config(tmp_path):
    (tmp_path / 'config.py').write_text(readme_code('safe checkpoints'))
    out = run(sys.executable, '-c', 'from mmengine import Config\n'
              'from mmengine.runner.checkpoint import CheckpointLoader\n'
              'before = dict(CheckpointLoader._schemes)\n'
              'Config.fromfile("config.py")\n'
              'print(before != CheckpointLoader._schemes)', cwd=tmp_path,
              PYTHONPATH=str(REPOSITORY))
    assert out.split()[-1] == 'True'


@pytest.mark.slow
def test_environment(clone):
    assert torch.__version__ in follow('environment', clone)


@pytest.mark.slow
def test_segmentation(tmp_path):
    root = write_scenes(tmp_path / 'data' / 'mine', 4, 2, (64, 80))
    for path in root.glob('annotations/*/*.png'):
        mask = cv2.imread(str(path), -1)
        mask[:8] = 10
        mask[8:16] = 255
        cv2.imwrite(str(path), mask)
    values = dict(train=SHORT, test=WORKERS, browse_dataset=WORKERS)
    out = follow('tutorial segmentation', tmp_path, [('iter_160000', 'iter_1')], **values)
    assert 'mIoU' in out and 'bike' in out
    assert len(list((tmp_path / 'masks').glob('*.png'))) == 2
    assert list((tmp_path / 'samples').iterdir()) and list((tmp_path / 'pictures').iterdir())
    # Masks of another kind do not pass: 11 is no class.
    cv2.imwrite(str(path), np.full_like(mask, 11))
    assert '11' in run(sys.executable, '-m', 'mmscheme', 'check_config', 'my_config.py',
                       cwd=tmp_path, PYTHONPATH=str(REPOSITORY), fails=True)


def _boxes(split):
    """Images with a box in each, by name: class, x, y, width, height in pixels of 80x64."""
    return {f'{split}{i}.jpg': (i % 2, 8 + 2 * i, 12, 24, 32) for i in range(4)}


def _write_coco(folder):
    for split in ('train', 'val'):
        (folder / split).mkdir(parents=True)
        content = dict(images=[], annotations=[], categories=[
            dict(id=1, name='car'), dict(id=2, name='tree')])
        for i, (name, (kind, *box)) in enumerate(_boxes(split).items(), 1):
            cv2.imwrite(str(folder / split / name), np.random.default_rng(0).integers(
                0, 255, (64, 80, 3), np.uint8))
            content['images'].append(dict(id=i, file_name=name, width=80, height=64))
            content['annotations'].append(dict(id=i, image_id=i, category_id=kind + 1, bbox=box,
                                               area=box[2] * box[3], iscrowd=0))
        (folder / f'{split}.json').write_text(json.dumps(content))


@pytest.mark.slow
def test_detection_from_coco_files(tmp_path):
    _write_coco(tmp_path / 'data' / 'mine')
    size = ['train_dataloader.dataset.pipeline.2.scale=(160,128)',
            'val_dataloader.dataset.pipeline.1.scale=(160,128)']
    values = [*ONE_ITERATION, *size, 'train_cfg.max_epochs=1']
    out = follow('tutorial detection', tmp_path, [('epoch_12', 'epoch_1')], train=values,
                 test=[*WORKERS, 'test_dataloader.dataset.pipeline.1.scale=(160,128)'])
    assert 'coco/bbox_mAP' in out


@pytest.mark.slow
def test_classification_and_a_segmenter_from_it(scenes, tmp_path):
    for split in ('train', 'val'):
        for source, name in zip(sorted((scenes / 'objects' / split).iterdir()), ('cat', 'dog')):
            folder = tmp_path / 'data' / 'mine' / split / name
            folder.mkdir(parents=True)
            images = sorted(source.iterdir())
            for i in range(2):
                shutil.copy(images[i % len(images)], folder / f'{i}{images[0].suffix}')
    values = [*ONE_ITERATION, 'train_cfg.max_epochs=1']
    out = follow('tutorial classification', tmp_path, [('epoch_300', 'epoch_1')], train=values,
                 test=WORKERS)
    assert 'accuracy/top1' in out
    (tmp_path / 'my_segmenter.py').write_text(
        f"_base_ = '{REPOSITORY}/configs/upernet_scheme_s_demo.py'\n"
        f"train_dataloader = dict(dataset=dict(data_root='{scenes}'))\n"
        f"val_dataloader = dict(dataset=dict(data_root='{scenes}'))\n"
        'test_dataloader = val_dataloader\n')
    out = follow('tutorial pretrained', tmp_path, [('epoch_300', 'epoch_1')],
                 train=[*SMALL, 'train_cfg.max_iters=1'])
    assert 'missing' in out


@pytest.mark.slow
def test_the_notebook(tmp_path):
    """Its cells in order, with fewer iterations."""
    cells = json.loads((REPOSITORY / 'docs/tutorials/first_model.ipynb').read_text())['cells']
    code = '\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'code')
    for old, new in (('_60', '_3'),
                     ('--iters 60', '--iters 3 --cfg-options train_dataloader.batch_size=2')):
        code = code.replace(old, new)
    code = 'import subprocess, sys\n' + re.sub(
        '^!python (.*)$', r"subprocess.run(f'{sys.executable} \1', shell=True, check=True)", code,
        flags=re.M)
    (tmp_path / 'cells.py').write_text(code)
    out = run(sys.executable, 'cells.py', cwd=tmp_path, PYTHONPATH=str(REPOSITORY))
    assert 'dense: 32768 weights, 44-e8: 16384' in out
    assert len(list((tmp_path / 'pictures').iterdir())) == 8
    assert (tmp_path / 'mixing_weights.png').exists()


@pytest.fixture(scope='module')
def exported(scenes, tmp_path_factory):
    """A folder with segmenter.onnx and image.jpg, as after the tutorial's first commands."""
    folder = tmp_path_factory.mktemp('exported')
    (folder / 'config.py').write_text(
        f"_base_ = '{REPOSITORY}/configs/upernet_scheme_s_demo.py'\n"
        'model = dict(decode_head=dict(channels=16), auxiliary_head=dict(channels=16))\n')
    cfg = Config.fromfile(folder / 'config.py')
    init_default_scope('mmseg')
    torch.manual_seed(0)
    torch.save(MODELS.build(cfg.model).state_dict(), folder / 'model.pth')
    run(sys.executable, 'tools/deploy/export.py', folder / 'config.py', folder / 'model.pth',
        '--shape', '128', '160', '--out', folder / 'segmenter.onnx')
    image = np.random.default_rng(0).integers(0, 255, (128, 160, 3), np.uint8)
    cv2.imwrite(str(folder / 'image.jpg'), image)
    return folder


def _names(mark, folder, monkeypatch):
    """Run the code below a mark in a folder and return its names."""
    monkeypatch.chdir(folder)
    names = {}
    exec(compile(readme_code(mark), mark, 'exec'), names)
    return names


@pytest.mark.slow
def test_onnxruntime_and_openvino(exported, monkeypatch):
    names = _names('tutorial onnxruntime', exported, monkeypatch)
    labels = names['labels']
    assert len(names['classes']) == 9 and labels.shape[1:] == names['logits'].shape[2:]
    pytest.importorskip('openvino')
    others = _names('tutorial openvino', exported, monkeypatch)['labels']
    assert (others == labels).mean() > 0.99


@pytest.mark.slow
def test_slide_mode(clone):
    root = write_scenes(clone / 'ade', 2, 2, (600, 700), ids='ade20k')
    follow('tutorial slide', clone)
    cfg = Config.fromfile(clone / 'tiled.py')
    assert cfg.test_dataloader.dataset.pipeline[1].scale_factor == 1.
    init_default_scope('mmseg')
    cfg.model.decode_head.channels = cfg.model.auxiliary_head.channels = 16
    model = MODELS.build(cfg.model).eval()
    seen = []
    model.backbone.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape[2:])))
    with torch.no_grad():
        model.inference(torch.rand(1, 3, 600, 700), [dict(
            ori_shape=(600, 700), img_shape=(600, 700), pad_shape=(600, 700))])
    assert seen == [(512, 512)] * 4 and root.exists()


@pytest.mark.slow
def test_sahi(clone, monkeypatch):
    pytest.importorskip('sahi')
    cfg = Config.fromfile(clone / 'configs' / 'mask_rcnn_scheme_s_demo.py')
    init_default_scope('mmdet')
    folder = clone / 'work_dirs' / 'mask_rcnn_scheme_s_demo'
    folder.mkdir(parents=True)
    model = MODELS.build(cfg.model)
    model.roi_head.mask_head.conv_logits.bias.data.fill_(10)  # SAHI refuses empty masks
    torch.save(dict(state_dict=model.state_dict(),
                    meta=dict(dataset_meta=dict(classes=tuple('abcdef')))), folder / 'epoch_8.pth')
    cv2.imwrite(str(clone / 'image.jpg'), np.random.default_rng(0).integers(
        0, 255, (200, 300, 3), np.uint8))
    names = _names('tutorial sahi', clone, monkeypatch)
    assert names['found'].image_width == 300 and len(names['boxes']) > 0


@pytest.mark.slow
def test_trackers(scenes, tmp_path):
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'scenes').symlink_to(scenes)
    follow('tutorial trackers', tmp_path,
           train=[*SMALL, 'train_cfg.max_iters=1', 'train_cfg.val_interval=1'])
    assert list((tmp_path / 'work_dirs' / 'tracked').rglob('events.out.tfevents*'))
    rows = re.findall(r"`(dict\(type='\w+VisBackend'.*?\))` \|",
                      (REPOSITORY / 'docs/tutorials/trackers.md').read_text())
    assert len(rows) == 4
    for row in rows:  # only used when something is logged, which needs a server
        VISBACKENDS.build(dict(eval(row), save_dir=str(tmp_path)))


@pytest.mark.slow
def test_several_processes_and_resuming(scenes, clone):
    (clone / 'data').mkdir()
    (clone / 'data' / 'scenes').symlink_to(scenes)
    short = [*SMALL, 'train_cfg.val_interval=2', 'default_hooks.checkpoint.interval=1',
             'env_cfg.dist_cfg.backend=gloo']
    out = follow('tutorial distributed', clone, [('iter_300', 'iter_1')],
                 dist_train=[*short, 'train_cfg.max_iters=1'],
                 dist_test=['test_dataloader.num_workers=0', *SMALL[:2],
                            'env_cfg.dist_cfg.backend=gloo'])
    assert 'mIoU' in out
    follow('tutorial resume', clone, train=[*short, 'train_cfg.max_iters=2'])
    assert (clone / 'work_dirs' / 'upernet_scheme_s_demo' / 'iter_2.pth').exists()
