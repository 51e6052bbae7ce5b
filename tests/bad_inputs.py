"""Bad input of every tool: what to type, and the line that answers it.

Each case makes its files in a folder of its own and says the tool, its arguments and a
regular expression of the error; ``WORKS`` where the input looks odd and is fine.
"""
import json
import shutil
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Union

import cv2
import numpy as np
import torch
from mmengine import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent

# Small networks, one iteration.
TINY = dict(
    seg='''
_base_ = '{repository}/configs/upernet_scheme_s_demo.py'
arch = dict(_delete_=True, depths=(1, 1, 1, 1), embed_dims=(8, 16, 32, 64))
model = dict(
    data_preprocessor=dict(size=(64, 64)), backbone=dict(arch=arch),
    decode_head=dict(in_channels=[8, 16, 32, 64], channels=16),
    auxiliary_head=dict(in_channels=32, channels=16))
train_pipeline = _base_.train_pipeline
train_pipeline[2]['scale'] = (80, 64)
train_pipeline[3]['crop_size'] = (64, 64)
train_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=0)
test_dataloader = dict(num_workers=0)
train_cfg = dict(max_iters=1, val_interval=1)
default_hooks = dict(logger=dict(interval=1))
''', det='''
_base_ = '{repository}/configs/mask_rcnn_scheme_s_demo.py'
arch = dict(_delete_=True, depths=(1, 1, 1, 1), embed_dims=(8, 16, 32, 64))
model = dict(
    backbone=dict(arch=arch), neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16), mask_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=32),
        mask_head=dict(in_channels=16, conv_out_channels=16, num_convs=1)),
    train_cfg=dict(rpn_proposal=dict(max_per_img=20)))
train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline
train_pipeline[2]['scale'] = test_pipeline[1]['scale'] = (80, 64)
train_dataloader = dict(batch_size=6, num_workers=0, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=0, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1, val_interval=1)
default_hooks = dict(logger=dict(interval=1))
''', cls='''
_base_ = '{repository}/configs/cls_scheme_s_demo.py'
arch = dict(_delete_=True, depths=(1, 1, 1, 1), embed_dims=(8, 16, 32, 64))
model = dict(backbone=dict(arch=arch), head=dict(in_channels=64))
train_dataloader = dict(batch_size=8, num_workers=0)
val_dataloader = dict(num_workers=0)
test_dataloader = dict(num_workers=0)
train_cfg = dict(max_epochs=1, val_interval=1)
default_hooks = dict(logger=dict(interval=1))
''')

WORKS: Optional[str] = None
Words = Sequence[Union[str, Path]]


class Box:
    """What a case may need, made in its folder when it asks.

    Args:
        folder: Of the case.
        scenes: Generated scenes to copy.
    """

    def __init__(self, folder: Path, scenes: Path) -> None:
        self.folder, self._scenes = folder, scenes

    @property
    def scenes(self) -> Path:
        """A copy of the scenes, to damage."""
        target = self.folder / 'scenes'
        return target if target.is_dir() else Path(shutil.copytree(self._scenes, target))

    def config(self, task: str, extra: str = '') -> Path:
        """A tiny config, with more lines of its own."""
        path = self.folder / f'tiny_{task}.py'
        path.write_text(TINY[task].format(repository=REPOSITORY))
        if not extra:
            return path
        own = self.folder / 'mine.py'
        own.write_text(f"_base_ = '{path}'\n{extra}\n")
        return own

    def checkpoint(self, task: str = 'seg', change: Optional[Callable[[Dict], None]] = None,
                   extra: str = '', **more: object) -> Path:
        """Random weights of a tiny config, changed."""
        cfg = Config.fromfile(self.config(task, extra))
        init_default_scope(cfg.default_scope)
        state = MODELS.build(cfg.model).state_dict()
        if change is not None:
            change(state)
        path = self.folder / 'weights.pth'
        torch.save(dict(state_dict=state, meta={}, **more), path)
        return path

    def file(self, name: str, content: bytes = b'') -> Path:
        """A file with that content."""
        path = self.folder / name
        path.write_bytes(content)
        return path

    def image(self, kind: str = 'images', name: str = 'scene_00001') -> Path:
        """A training image, or with ``annotations`` its mask."""
        return self.scenes / kind / 'training' / f'{name}.{"jpg" if kind == "images" else "png"}'

    def coco(self, change: Callable[[Dict], object], split: str = 'train') -> None:
        """Changes the COCO file of the scenes."""
        path = self.scenes / 'annotations' / f'instances_{split}2017.json'
        content = json.loads(path.read_text())
        changed = change(content)
        path.write_text(json.dumps(content if changed is None else changed))

    def train(self, task: str, *options: str, extra: str = '', flags: Words = ()) -> List[str]:
        """The arguments of a training."""
        return self._words(task, extra, [], flags, options)

    def test(self, checkpoint: Path, *options: str, task: str = 'seg', flags: Words = ()
             ) -> List[str]:
        """The arguments of a test."""
        return self._words(task, '', [checkpoint], flags, options)

    def _words(self, task: str, extra: str, more: Words, flags: Words, options: Sequence[str]
               ) -> List[str]:
        words = [self.config(task, extra), *more, '--data-root', self.scenes]
        if not any(str(f) == '--work-dir' for f in flags):
            words += ['--work-dir', self.folder / 'work']
        words += [*flags, *(['--cfg-options', *options] if options else [])]
        return [str(w) for w in words]


class Case(NamedTuple):
    """One bad input.

    Attributes:
        name: What is wrong.
        tool: Path below ``tools``.
        words: Makes the files and gives the arguments.
        expected: Regular expression of the error line, or ``WORKS``.
    """
    name: str
    tool: str
    words: Callable[[Box], Sequence[object]]
    expected: Optional[str]


CASES: List[Case] = []


def case(name: str, tool: str, expected: Optional[str]) -> Callable:
    """Adds the function below to the table."""

    def add(words: Callable[[Box], Sequence[object]]) -> Callable:
        CASES.append(Case(name, tool, words, expected))
        return words

    return add


def halve(path: Path) -> None:
    """Cuts a file in the middle."""
    data = path.read_bytes()
    path.write_bytes(data[:len(data) // 2])


HTML = b'<!DOCTYPE html><html><head><title>404 Not Found</title></head></html>'


# --- segmentation data ----------------------------------------------------------------------
@case('data root missing', 'train.py', r'data root not found: .*no \(.*make_scenes')
def _(box):
    return [box.config('seg'), '--data-root', box.folder / 'no', '--work-dir', box.folder / 'w']


@case('layout: images in another folder', 'train.py', r'folder not found: .*images/training')
def _(box):
    (box.scenes / 'images').rename(box.scenes / 'pictures')
    return box.train('seg')


@case('no images in the folder', 'train.py', r'no images \*\.jpg in .*images/training')
def _(box):
    for path in (box.scenes / 'images' / 'training').iterdir():
        path.unlink()
    return box.train('seg')


@case('mask without image', 'train.py', r'mask without image: .*scene_00001\.png')
def _(box):
    box.image().unlink()
    return box.train('seg')


@case('image without mask', 'train.py', r'image without mask: .*scene_00001\.jpg')
def _(box):
    box.image('annotations').unlink()
    return box.train('seg')


@case('image of zero bytes', 'train.py', r'unreadable image: .*scene_00001\.jpg \(empty file\)')
def _(box):
    box.image().write_bytes(b'')
    return box.train('seg')


@case('image cut in the middle', 'train.py', r'unreadable image: .*scene_00001\.jpg \(truncated')
def _(box):
    halve(box.image())
    return box.train('seg')


@case('text instead of an image', 'train.py', r'unreadable image: .*scene_00001\.jpg \(not an im')
def _(box):
    box.image().write_bytes(HTML)
    return box.train('seg')


@case('folder instead of an image', 'train.py', r'mask without image: .*scene_00001')
def _(box):
    box.image().unlink()
    box.image().mkdir()
    return box.train('seg')


@case('list of names with a byte order mark', 'train.py',
      r'image not found: .*\\ufeffscene_00001\.jpg.* \(named by .*list\.txt\)')
def _(box):
    (box.scenes / 'list.txt').write_text('\ufeffscene_00001\nscene_00002\n', encoding='utf-8')
    return box.train('seg', 'train_dataloader.dataset.ann_file=list.txt')


@case('preprocessor for four channels', 'train.py', r'data_preprocessor: .*mean and std')
def _(box):
    return box.train('seg', extra=(
        'model = dict(data_preprocessor=dict(mean=[9.] * 4, std=[9.] * 4))'))


@case('None for a hook with the stock runtime', 'train.py',
      r'AssertionError: assert hook is not None')
def _(box):
    return box.train('seg', 'default_hooks.non_finite=None', flags=('--stock-runtime', ))


@case('mask cut in the middle', 'train.py', r'unreadable mask: .*scene_00001\.png \(truncated')
def _(box):
    halve(box.image('annotations'))
    return box.train('seg')


@case('mask of zero bytes', 'train.py', r'unreadable mask: .*scene_00001\.png \(empty file\)')
def _(box):
    box.image('annotations').write_bytes(b'')
    return box.train('seg')


@case('class id too large in a mask', 'train.py', r'class id 77 in .*scene_00001\.png: the model')
def _(box):
    labels = cv2.imread(str(box.image('annotations')), -1)
    labels[3, 4] = 77
    cv2.imwrite(str(box.image('annotations')), labels)
    return box.train('seg')


@case('mask of colours instead of ids', 'train.py',
      r'scene_00001\.png: .*3 channels.*expected one channel of class ids')
def _(box):
    labels = cv2.imread(str(box.image('annotations')), -1)
    cv2.imwrite(str(box.image('annotations')), np.stack([labels * 20, labels, labels * 9], -1))
    return box.train('seg')


@case('mask of another size than its image', 'train.py',
      r'scene_00001\.jpg has 64x48 .*scene_00001\.png has 64x40')
def _(box):
    labels = cv2.imread(str(box.image('annotations')), -1)
    cv2.imwrite(str(box.image('annotations')), labels[:40])
    return box.train('seg')


@case('ids with 0 for nothing, reduce_zero_label=False', 'train.py',
      r'class id 9 in .*num_classes=9.*reduce_zero_label=False')
def _(box):
    for split in ('training', 'validation'):
        path = next((box.scenes / 'annotations' / split).iterdir())
        labels = cv2.imread(str(path), -1)
        labels[0] = 9
        cv2.imwrite(str(path), labels)
    return box.train('seg', extra='pipeline = _base_.train_pipeline\n'
                     "pipeline[1]['reduce_zero_label'] = False\n"
                     'train_dataloader = dict(dataset=dict(\n'
                     '    reduce_zero_label=False, pipeline=pipeline))')


@case('CMYK image', 'train.py', WORKS)
def _(box):
    Image.open(box.image()).convert('CMYK').save(box.image())
    return box.train('seg')


@case('16-bit and grey images', 'train.py', WORKS)
def _(box):
    for split in ('training', 'validation'):
        for path in (box.scenes / 'images' / split).iterdir():
            grey = cv2.imread(str(path), 0)
            cv2.imwrite(str(path.with_suffix('.png')), grey.astype(np.uint16) * 257)
            path.unlink()
    suffix = "dict(dataset=dict(img_suffix='.png'))"
    return box.train('seg', extra=f'train_dataloader = {suffix}\nval_dataloader = {suffix}\n')


@case('class names: fewer than num_classes', 'train.py',
      r'decode_head: num_classes=9, the data set has 3 classes')
def _(box):
    own = "dict(dataset=dict(metainfo=dict(classes=('sky', 'tree', 'car'))))"
    return box.train('seg', extra=f'train_dataloader = {own}\nval_dataloader = {own}\n')


# --- config and command line -----------------------------------------------------------------
@case('num_classes of a head too small', 'train.py', r'num_classes=5')
def _(box):
    return box.train('seg', 'model.decode_head.num_classes=5')


@case('num_classes of a head too large', 'train.py', r'num_classes=90.*9')
def _(box):
    return box.train('seg', 'model.decode_head.num_classes=90')


@case('in_channels of the head', 'train.py',
      r'decode_head\.psp_mod.* to have 99 channels, but got 64.*in_channels of model\.decode_head')
def _(box):
    return box.train('seg', 'model.decode_head.in_channels=[8,16,32,99]')


@case('in_channels of the auxiliary head', 'train.py',
      r'auxiliary_head\.convs.* to have 7 channels, but got 32')
def _(box):
    return box.train('seg', 'model.auxiliary_head.in_channels=7')


@case('in_channels of the neck', 'train.py',
      r'neck\.lateral.* to have 99 channels, but got 64')
def _(box):
    return box.train('det', 'model.neck.in_channels=[8,16,32,99]')


@case('in_channels of the classifier', 'train.py',
      r'head\.fc: .*x64 and 65x6.*in_channels of model\.head')
def _(box):
    return box.train('cls', 'model.head.in_channels=65')


@case('crop larger than the size of the preprocessor', 'train.py',
      r'crop_size.*\(96, 96\).*size.*\(64, 64\)')
def _(box):
    return box.train('seg', extra='pipeline = _base_.train_pipeline\n'
                     "pipeline[3]['crop_size'] = (96, 96)\n"
                     'train_dataloader = dict(dataset=dict(pipeline=pipeline))')


@case('crop not divisible by 32', 'train.py', WORKS)
def _(box):
    return box.train('seg', 'model.data_preprocessor.size=(60,61)', extra=(
        'pipeline = _base_.train_pipeline\n'
        "pipeline[3]['crop_size'] = (60, 61)\n"
        'train_dataloader = dict(dataset=dict(pipeline=pipeline))'))


@case('typo in a key of --cfg-options', 'train.py',
      r'train_dataloder.*(did you mean|train_dataloader)')
def _(box):
    return box.train('seg', 'train_dataloder.batch_size=4')


@case('typo deeper in a key of --cfg-options', 'train.py', r'bakbone')
def _(box):
    return box.train('seg', 'model.bakbone.groups=(1,1)')


@case('--cfg-options without =', 'train.py', r'--cfg-options.*train_cfg\.max_iters')
def _(box):
    return box.train('seg', 'train_cfg.max_iters')


@case('type that no registry knows', 'train.py', r'mmscheme\.SchemeFormer')
def _(box):
    return box.train('seg', 'model.backbone.type=mmscheme.SchemeFormer')


@case('config: syntax error', 'train.py', r'mine\.py')
def _(box):
    return [box.file('mine.py', b'model = dict(\n')]


@case('config: _base_ missing', 'train.py', r'no_such_base\.py')
def _(box):
    return [box.file('mine.py', b"_base_ = 'no_such_base.py'\n")]


@case('config: runs into an error', 'train.py', r'mine\.py.*norm_cfgg')
def _(box):
    return [box.file('mine.py', b'model = dict(x=norm_cfgg)\n')]


@case('config: bytes', 'train.py', r'mine\.py')
def _(box):
    return [box.file('mine.py', bytes(range(256)))]


@case('config: a folder', 'train.py', r'(config not found|expected a config file).*')
def _(box):
    return [box.folder]


@case('config: without train_dataloader', 'train.py', r'train_dataloader')
def _(box):
    return [box.config('seg', "model = dict(type='EncoderDecoder')\n"
                              "train_dataloader = None"), '--data-root', box.scenes]


@case('learning rate nan', 'train.py', r'(lr|learning rate).*nan')
def _(box):
    return box.train('seg', 'optim_wrapper.optimizer.lr=nan')


@case('learning rate negative', 'train.py', r'(lr|learning rate).*-0\.1')
def _(box):
    return box.train('seg', 'optim_wrapper.optimizer.lr=-0.1')


@case('batch size 0', 'train.py', r'train_dataloader\.batch_size.*0')
def _(box):
    return box.train('seg', 'train_dataloader.batch_size=0')


@case('max_iters 0', 'train.py', r'max_iters.*0')
def _(box):
    return box.train('seg', 'train_cfg.max_iters=0')


@case('max_iters of text', 'train.py',
      r"train_cfg\.max_iters: expected a positive whole number, found 'abc'")
def _(box):
    return box.train('seg', 'train_cfg.max_iters=abc')


@case('max_iters with a fraction', 'train.py', r'train_cfg\.max_iters: .* whole number, found 2\.5')
def _(box):
    return box.train('seg', 'train_cfg.max_iters=2.5')


@case('max_iters and val_interval as whole floats', 'train.py', WORKS)
def _(box):
    return box.train('seg', 'train_cfg.max_iters=2e0', 'train_cfg.val_interval=1e0')


@case('max_epochs as a whole float', 'train.py', WORKS)
def _(box):
    return box.train('cls', 'train_cfg.max_epochs=1e0')


@case('--auto-scale-lr switched off in the config', 'train.py',
      r'--auto-scale-lr needs auto_scale_lr\.base_batch_size')
def _(box):
    return box.train('seg', 'auto_scale_lr=None', flags=['--auto-scale-lr'])


@case('--auto-scale-lr from a batch of text', 'train.py',
      r"auto_scale_lr\.base_batch_size: expected a positive whole number, found 'abc'")
def _(box):
    return box.train('seg', 'auto_scale_lr.base_batch_size=abc', flags=['--auto-scale-lr'])


@case('optimizer that there is not', 'train.py',
      r"optim_wrapper\.optimizer\.type: .*found 'AdamX'; did you mean Adam")
def _(box):
    return box.train('seg', 'optim_wrapper.optimizer.type=AdamX')


@case('optimizer by its module', 'train.py', WORKS)
def _(box):
    return box.train('seg', 'optim_wrapper.optimizer.type=torch.optim.AdamW')


@case('seed of text', 'train.py', r"randomness\.seed: expected a whole number .*found 'abc'")
def _(box):
    return box.train('seg', 'randomness.seed=abc')


@case('negative seed', 'test.py', r'randomness\.seed: expected a whole number .*found -1')
def _(box):
    return box.test(box.checkpoint(), 'randomness.seed=-1')


@case('hook switched off with None', 'train.py', WORKS)
def _(box):
    return box.train('seg', 'default_hooks.non_finite=None', 'default_hooks.timer=None')


@case('argument of a hook', 'train.py',
      r'default_hooks\.mixing_schedule: decay: expected \(start, end\) .*found 0\.5')
def _(box):
    return box.train('seg', 'default_hooks.mixing_schedule.decay=0.5')


@case('argument that a hook does not have', 'train.py',
      r"default_hooks\.non_finite: .*unexpected keyword argument 'limits'")
def _(box):
    return box.train('seg', 'default_hooks.non_finite.limits=5')


@case('work folder cannot be written', 'train.py', r'(/proc/mmscheme|work folder).*')
def _(box):
    return box.train('seg', flags=('--work-dir', '/proc/mmscheme'))


@case('work folder is a file', 'train.py', r'work folder cannot be written: .*taken.*Not a dir')
def _(box):
    return box.train('seg', flags=('--work-dir', box.file('taken')))


@case('file system full during training', 'train.py', r'(disk|space|written|write)')
def _(box):
    import resource
    # No file may be larger than 100 kB: as if the disk were full when a checkpoint is written.
    words = box.train('seg')
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit))
    return words


# --- checkpoints -----------------------------------------------------------------------------
@case('resume: nothing there yet', 'train.py', WORKS)
def _(box):
    return box.train('seg', flags=('--resume', ))


@case('resume: no such checkpoint', 'train.py', r'checkpoint not found: no\.pth')
def _(box):
    return box.train('seg', flags=('--resume', 'no.pth'))


@case('resume: weights without a training', 'train.py',
      r'weights\.pth.*(optimizer|training|meta)')
def _(box):
    return box.train('seg', flags=('--resume', box.checkpoint()))


@case('load_from: checkpoint of another model', 'train.py',
      r'weights\.pth: not a checkpoint of this config: ')
def _(box):
    return box.train('seg', f'load_from={box.checkpoint("cls")}', extra=(
        'arch = dict(_delete_=True, depths=(1, 1, 1, 1), embed_dims=(16, 32, 64, 96))\n'
        'model = dict(backbone=dict(arch=arch), decode_head=dict(in_channels=[16, 32, 64, 96]),\n'
        '             auxiliary_head=dict(in_channels=64))'))


@case('load_from: other head, same backbone', 'train.py', WORKS)
def _(box):
    weights = box.checkpoint(extra='model = dict(decode_head=dict(num_classes=4),\n'
                             '             auxiliary_head=dict(num_classes=4))')
    return box.train('seg', f'load_from={weights}')


@case('test: checkpoint of another model', 'test.py', r'weights\.pth: not a checkpoint of this')
def _(box):
    return box.test(box.checkpoint('det'))


@case('test: a head of another width', 'test.py',
      r'weights\.pth: not a checkpoint of this config: .*decode_head\.conv_seg\.weight is \(4, 16')
def _(box):
    return box.test(box.checkpoint(extra='model = dict(decode_head=dict(num_classes=4))'))


@case('test: weights are missing', 'test.py',
      r'weights\.pth: not a checkpoint of this config: missing backbone\.')
def _(box):
    def drop(state):
        for key in [k for k in state if k.startswith('backbone.stages.2')]:
            del state[key]

    return box.test(box.checkpoint(change=drop))


@case('test: checkpoint missing', 'test.py', r'checkpoint not found: .*no\.pth')
def _(box):
    return box.test(box.folder / 'no.pth')


@case('test: checkpoint of zero bytes', 'test.py', r'not a readable checkpoint: .*empty\.pth')
def _(box):
    return box.test(box.file('empty.pth'))


@case('test: checkpoint cut in the middle', 'test.py', r'not a readable checkpoint: .*weights\.pth')
def _(box):
    path = box.checkpoint()
    halve(path)
    return box.test(path)


@case('test: a page of HTML as checkpoint', 'test.py', r'page\.pth')
def _(box):
    return box.test(box.file('page.pth', HTML))


@case('test: an image as checkpoint', 'test.py', r'scene_00001\.jpg')
def _(box):
    return box.test(box.image())


@case('test: a folder as checkpoint', 'test.py', r'folder.*work_dirs?|checkpoint not found')
def _(box):
    (box.folder / 'work_dirs').mkdir()
    return box.test(box.folder / 'work_dirs')


@case('test: checkpoint with code', 'test.py', r'checkpoint refused: .*code\.pth')
def _(box):
    from tests.utils import RunsCode
    torch.save(dict(state_dict={}, x=RunsCode(box.folder / 'ran')), box.folder / 'code.pth')
    return box.test(box.folder / 'code.pth')


@case('test: no tensors in the checkpoint', 'test.py', r'weights\.pth')
def _(box):
    return box.test(box.checkpoint(change=lambda state: state.clear()))


@case('test: weights that are not finite', 'test.py', r'weights\.pth.*(nan|finite)')
def _(box):
    return box.test(box.checkpoint(
        change=lambda state: state['decode_head.conv_seg.weight'].fill_(float('nan'))))


@case('test: --out is a file', 'test.py', r'taken')
def _(box):
    return box.test(box.checkpoint(), flags=('--out', box.file('taken', b'keep me')))


# --- detection data --------------------------------------------------------------------------
@case('annotation file missing', 'train.py', r'annotation file not found: .*instances_train2017')
def _(box):
    (box.scenes / 'annotations' / 'instances_train2017.json').unlink()
    return box.train('det')


@case('annotation file is not JSON', 'train.py', r'not JSON: .*instances_train2017\.json')
def _(box):
    (box.scenes / 'annotations' / 'instances_train2017.json').write_bytes(HTML)
    return box.train('det')


@case('annotation file cut in the middle', 'train.py', r'not JSON: .*instances_val2017\.json')
def _(box):
    halve(box.scenes / 'annotations' / 'instances_val2017.json')
    return box.train('det')


@case('annotation file is a list', 'train.py', r'instances_train2017\.json.*list')
def _(box):
    box.coco(lambda c: c['annotations'])
    return box.train('det')


for _key in ('images', 'annotations', 'categories'):

    @case(f'annotation file without {_key}', 'train.py',
          rf'instances_train2017\.json.*{_key}')
    def _(box, key=_key):
        box.coco(lambda c: c.pop(key) and None)
        return box.train('det')


@case('annotation file without any image', 'train.py', r'instances_train2017\.json.*images')
def _(box):
    box.coco(lambda c: c.update(images=[], annotations=[]))
    return box.train('det')


@case('category names of another data set', 'train.py', r'instances_train2017\.json.*(balloon)')
def _(box):
    box.coco(lambda c: [k.update(name=k['name'] + 'oon') for k in c['categories']] and None)
    return box.train('det')


@case('annotation of an unknown category', 'train.py', r'category_id.*4711')
def _(box):
    box.coco(lambda c: c['annotations'][0].update(category_id=4711))
    return box.train('det')


@case('annotation of an unknown image', 'train.py', r'image_id.*4711')
def _(box):
    box.coco(lambda c: c['annotations'][0].update(image_id=4711))
    return box.train('det')


@case('box of three numbers', 'train.py', r'instances_train2017\.json.*bbox.*\[1, 2, 3\]')
def _(box):
    box.coco(lambda c: c['annotations'][0].update(bbox=[1, 2, 3]))
    return box.train('det')


@case('box of text', 'train.py', r"instances_train2017\.json.*bbox.*'a'")
def _(box):
    box.coco(lambda c: c['annotations'][0].update(bbox=['a', 2, 3, 4]))
    return box.train('det')


@case('box that is not finite', 'train.py', r'instances_train2017\.json.*bbox.*nan')
def _(box):
    box.coco(lambda c: c['annotations'][0].update(bbox=[float('nan'), 2, 3, 4]))
    return box.train('det')


@case('boxes outside of the image and negative', 'train.py', WORKS)
def _(box):
    box.coco(lambda c: (c['annotations'][0].update(bbox=[900, 900, 5, 5]),
                        c['annotations'][1].update(bbox=[5, 5, -4, -4])) and None)
    return box.train('det')


@case('polygon of three numbers', 'train.py', r'instances_train2017\.json.*segmentation')
def _(box):
    box.coco(lambda c: c['annotations'][0].update(segmentation=[[1, 2, 3]]))
    return box.train('det')


@case('images of the annotation file are missing', 'train.py',
      r'image not found: .*train2017/scene_00001\.jpg')
def _(box):
    (box.scenes / 'train2017' / 'scene_00001.jpg').unlink()
    return box.train('det')


@case('image of another size than its annotations say', 'train.py',
      r'segmentation\.size: expected \[480, 640\] .*found \[48, 64\]')
def _(box):
    box.coco(lambda c: [i.update(width=640, height=480) for i in c['images']] and None)
    return box.train('det')


@case('num_classes of the box head', 'train.py', r'bbox_head.*num_classes=5.*6')
def _(box):
    return box.train('det', 'model.roi_head.bbox_head.num_classes=5')


@case('truncated image of a detector', 'train.py', r'unreadable image: .*scene_00001\.jpg')
def _(box):
    halve(box.scenes / 'train2017' / 'scene_00001.jpg')
    return box.train('det')


# --- classification data ---------------------------------------------------------------------
@case('classifier: folder of the split missing', 'train.py', r'folder not found: .*objects/train')
def _(box):
    shutil.rmtree(box.scenes / 'objects' / 'train')
    return box.train('cls')


@case('classifier: fewer folders than classes', 'train.py', r'(num_classes=6.*5|5.*num_classes=6)')
def _(box):
    for split in ('train', 'val'):
        shutil.rmtree(next(p for p in sorted((box.scenes / 'objects' / split).iterdir())))
    return box.train('cls')


@case('classifier: more folders than classes', 'train.py', r'num_classes=6')
def _(box):
    for split in ('train', 'val'):
        folder = box.scenes / 'objects' / split
        first = sorted(folder.iterdir())[0]
        shutil.copytree(first, folder / 'zebra')
    return box.train('cls')


@case('classifier: a class without images', 'train.py', WORKS)
def _(box):
    for split in ('train', 'val'):
        (box.scenes / 'objects' / split / 'empty_class').mkdir()
    return box.train('cls', 'model.head.num_classes=7', 'model.data_preprocessor.num_classes=7')


@case('classifier: list of files with text as label', 'train.py', r'list\.txt')
def _(box):
    (box.scenes / 'list.txt').write_text('a.jpg cat\n')
    return box.train('cls', extra="train_dataloader = dict(dataset=dict(ann_file='list.txt'))")


@case('classifier: zero-byte image', 'train.py', r'unreadable image: .*\.jpg \(empty file\)')
def _(box):
    next((box.scenes / 'objects' / 'train').rglob('*.jpg')).write_bytes(b'')
    return box.train('cls')


# --- other tools -----------------------------------------------------------------------------
@case('predict: image missing', 'predict.py', r'input not found: .*no\.jpg')
def _(box):
    return [box.config('seg'), box.checkpoint(), box.folder / 'no.jpg', '--out', box.folder / 'o']


@case('predict: zero-byte image', 'predict.py', r'not a readable image: .*empty\.jpg')
def _(box):
    return [box.config('seg'), box.checkpoint(), box.file('empty.jpg'), '--out', box.folder / 'o']


@case('predict: truncated image', 'predict.py', r'not a readable image: .*scene_00001\.jpg')
def _(box):
    halve(box.image())
    return [box.config('seg'), box.checkpoint(), box.image(), '--out', box.folder / 'o']


@case('predict: unknown device', 'predict.py', r'device.*gpu7')
def _(box):
    return [box.config('seg'), box.checkpoint(), box.image(), '--device', 'gpu7', '--out',
            box.folder / 'o']


@case('predict: device that is not here', 'predict.py', r'(?i)cuda|nvidia')
def _(box):
    return [box.config('seg'), box.checkpoint(), box.image(), '--device', 'cuda:77', '--out',
            box.folder / 'o']


@case('predict: checkpoint of another model', 'predict.py', r'not a checkpoint of this config')
def _(box):
    return [box.config('seg'), box.checkpoint('det'), box.image(), '--out', box.folder / 'o']


@case('converter: page of HTML', 'model_converters/metaformer2mmscheme.py', r'page\.pth')
def _(box):
    return [box.file('page.pth', HTML), box.folder / 'out.pth']


@case('converter: weights of a detector head', 'model_converters/metaformer2mmscheme.py',
      r'weights\.pth')
def _(box):
    return [box.checkpoint('det', change=lambda s: [s.pop(k) for k in list(s)
                                                    if k.startswith('backbone')]),
            box.folder / 'out.pth']


@case('converter: not a SCHEMEformer', 'model_converters/mmscheme2timm.py', r'weights\.pth')
def _(box):
    return [box.checkpoint('det', change=lambda s: [s.pop(k) for k in list(s)
                                                    if k.startswith('backbone')]),
            box.folder / 'out.pth']


@case('converter: target is a folder', 'model_converters/mmscheme2timm.py', r'folder|directory')
def _(box):
    (box.folder / 'taken').mkdir()
    return [box.checkpoint('cls'), box.folder / 'taken']


@case('converter: images missing', 'model_converters/dense2block_diagonal.py',
      r'(data root|folder) not found')
def _(box):
    return [box.config('cls'), box.checkpoint('cls'), box.folder / 'out.pth', '--data-root',
            box.folder / 'no']


@case('publish: zero-byte checkpoint', 'misc/publish_model.py', r'empty\.pth')
def _(box):
    return [box.file('empty.pth'), box.folder / 'out.pth']


@case('scenes: folder exists', 'make_scenes.py', r'scenes')
def _(box):
    return [box.scenes]


@case('scenes: size 0', 'make_scenes.py', r'at least 32 pixels a side, found 0x0')
def _(box):
    return [box.folder / 'new', '--size', '0', '0', '--num-train', '1', '--num-val', '1']


@case('scenes: cannot be written', 'make_scenes.py', r'/proc/scenes')
def _(box):
    return ['/proc/scenes', '--num-train', '1', '--num-val', '1']


@case('browse: data root missing', 'analysis_tools/browse_dataset.py', r'data root not found')
def _(box):
    return [box.config('seg'), '--data-root', box.folder / 'no', '--out', box.folder / 'o']


@case('browse: truncated image', 'analysis_tools/browse_dataset.py', r'scene_00001\.jpg')
def _(box):
    halve(box.image())
    return [box.config('seg'), '--data-root', box.scenes, '--out', box.folder / 'o']


@case('plot: no logs in the folder', 'analysis_tools/plot_mixing_weights.py', r'scenes')
def _(box):
    return [box.scenes, '--out', box.folder / 'o.png']


@case('export: checkpoint of another model', 'deploy/export.py', r'not a checkpoint of this config')
def _(box):
    return [box.config('seg'), box.checkpoint('det'), '--out', box.folder / 'o.onnx']


@case('exported: not a model', 'deploy/predict.py', r'page\.onnx')
def _(box):
    return [box.file('page.onnx', HTML), box.image()]
