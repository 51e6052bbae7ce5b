"""The config of a project: a recipe for so many images of such a size, on this machine."""
import math
import os
from typing import List, NamedTuple, Optional, Sequence, Tuple

import torch

__all__ = ['Facts', 'largest_batch', 'write_recipe']


class _Task(NamedTuple):
    """A recipe: what it was made for, and settings that trained from scratch on small data."""
    config: str
    epochs: float
    images: int
    batch: int  # at most, on a GPU
    cpu_batch: int
    rate: float  # with this many images an iteration; with fewer, less by the square root
    rate_batch: int


_TASKS = {
    'upernet': _Task('upernet_scheme_s_ade20k.py', 127, 20_210, 16, 4, 1e-3, 8),
    'semantic_fpn': _Task('semantic_fpn_scheme_s_ade20k.py', 63, 20_210, 32, 4, 1e-3, 8),
    'retinanet': _Task('retinanet_scheme_s_coco.py', 12, 118_287, 16, 2, 1e-3, 4),
    'mask_rcnn': _Task('mask_rcnn_scheme_s_coco.py', 12, 118_287, 16, 2, 1e-3, 4),
    'classifier': _Task('cls_scheme_s_in1k.py', 300, 1_281_167, 256, 32, 1e-3, 64),
}


class Facts(NamedTuple):
    """Facts that a config depends on.

    Attributes:
        command: The command line that asks for it.
        task: ``'seg'``, ``'det'`` or ``'cls'``.
        data: Folder with the labels.
        counts: Number of images by split: train, val and test, the last 0 without.
        classes: Their names.
        size: Median width and height.
        smallest: Shortest side of all.
        palette: Colour of each class, or None.
        suffix: Of the images, of a segmentation.
        masks: All boxes have masks.
    """
    command: str
    task: str
    data: str
    counts: Tuple[int, int, int]
    classes: List[str]
    size: Tuple[int, int]
    smallest: int
    palette: Optional[List[List[int]]] = None
    suffix: str = '.jpg'
    masks: bool = False


def _choose(facts: Facts) -> _Task:
    if facts.task == 'cls':
        return _TASKS['classifier']
    if facts.task == 'det':
        return _TASKS['mask_rcnn' if facts.masks else 'retinanet']
    return _TASKS['upernet' if torch.cuda.is_available() else 'semantic_fpn']


def largest_batch(facts: Facts) -> int:
    """Return the images of an iteration to start with: a power of two, 4 iterations an epoch."""
    recipe = _choose(facts)
    most = recipe.batch if torch.cuda.is_available() else recipe.cpu_batch
    return max(2, min(most, 2**int(math.log2(max(1, facts.counts[0] / 4)))))


def _multiple(value: float, of: int, least: int, most: int) -> int:
    return max(least, min(most, round(value / of) * of))


def write_recipe(facts: Facts, batch: int) -> str:
    """Return the text of a config with so many images in an iteration."""
    recipe = _choose(facts)
    gpu = torch.cuda.is_available()
    # Smaller data sets get more epochs but fewer iterations in total; without a GPU, a tenth of
    # that already takes hours.
    epochs = recipe.epochs * (recipe.images / facts.counts[0])**0.25
    epochs = max(1, round(min(300, epochs) / (1 if gpu else 10)))
    steps = max(1, facts.counts[0] // batch) * epochs
    warm = max(2, min(1500, steps // 20))
    rate = float(f'{recipe.rate * min(1, math.sqrt(batch / recipe.rate_batch)):.2g}')
    workers = max(1, min(4, len(os.sched_getaffinity(0)) - 1))
    lines = [
        f'# Written by: {facts.command}',
        f'# {facts.counts[0]} images to train on, {facts.counts[1]} to validate'
        + (f', {facts.counts[2]} to test' if facts.counts[2] else ''),
        f"_base_ = __import__('mmscheme').get_config_path({recipe.config!r})",
        f'data_root = {facts.data!r}',
        f'classes = {facts.classes!r}',
        *{'seg': _segmenter, 'det': _detector, 'cls': _classifier}[facts.task](
            facts, f'batch_size={batch}, num_workers={workers}', f'num_workers={workers}'),
        f'optim_wrapper = dict(optimizer=dict(lr={rate}))',
        'param_scheduler = [',
        f"    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end={warm}),"]
    if facts.task == 'seg':
        interval = max(1, steps // 10)
        lines += [
            "    dict(type='PolyLR', eta_min=0., power=1., by_epoch=False, "
            f'begin={warm}, end={max(steps, warm + 1)})]',
            f'# {epochs} epochs; train --epochs N has another length, with all that follows it.',
            f'train_cfg = dict(max_iters={steps}, val_interval={interval})',
            f'default_hooks = dict(checkpoint=dict(interval={interval}))']
    else:
        lines += [
            f"    dict(type='CosineAnnealingLR', eta_min={rate / 100:.2g}, by_epoch=True, end="
            f'{epochs}, convert_to_iter_based=True)]',
            '# train --epochs N has another length, with all that follows it.',
            f'train_cfg = dict(max_epochs={epochs}, val_interval={max(1, epochs // 10)})']
        if facts.task == 'cls':  # the recipe is for 300 epochs of a million images
            lines.append('default_hooks = dict(mixing_schedule=dict(decay=(0.5, 0.9)))')
    return '\n'.join([*lines, f'auto_scale_lr = dict(base_batch_size={batch})', ''])


def _parts(facts: Facts) -> List[str]:
    return ['train', 'val', 'test' if facts.counts[2] else 'val']


def _loaders(facts: Facts, train: str, val: str, where: List[str]) -> List[str]:
    """Return the lines of the loaders, with what each data set has of its own."""
    tests = f'val_dataloader = dict({val}, dataset=dict(**mine, {{}}, pipeline=test_pipeline))'
    return [
        f'train_dataloader = dict({train}, dataset=dict(**mine, {where[0]}, '
        'pipeline=train_pipeline))',
        tests.format(where[1]),
        tests.replace('val_', 'test_').format(where[2]) if facts.counts[2] else
        'test_dataloader = val_dataloader']


def _augment_tests(scale: Tuple[int, int], factors: Sequence[float]) -> List[str]:
    """Return the lines that set the sizes of test-time augmentation, around that of the test."""
    sizes = [tuple(round(side * factor) for side in scale) for factor in factors]
    return ['tta_pipeline = _base_.tta_pipeline',
            "tta_pipeline[1]['transforms'][0] = [",
            f"    dict(type='Resize', scale=s, keep_ratio=True) for s in {sizes}]"]


def _segmenter(facts: Facts, train: str, val: str) -> List[str]:
    fpn = not torch.cuda.is_available()  # its test pipeline has a step more
    short = _multiple(min(facts.size), 32, 64, 512)
    scale = max(short, round(short * max(facts.size) / min(facts.size))), short
    count = len(facts.classes)
    auxiliary = '' if fpn else f', auxiliary_head=dict(num_classes={count})'
    return [
        'train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline',
        *_augment_tests(scale, (0.5, 0.75, 1, 1.25, 1.5, 1.75)),
        f"train_pipeline[1]['reduce_zero_label'] = test_pipeline[{3 if fpn else 2}]"
        "['reduce_zero_label'] = False",
        f"tta_pipeline[1]['transforms'][{3 if fpn else 2}][0]['reduce_zero_label'] = False",
        f"train_pipeline[2]['scale'] = test_pipeline[1]['scale'] = {scale}",
        f"train_pipeline[3]['crop_size'] = crop_size = ({short}, {short})",
        f"mine = dict(type='BaseSegDataset', data_root=data_root, img_suffix={facts.suffix!r}, "
        'reduce_zero_label=False, metainfo=dict(classes=classes'
        + (f', palette={facts.palette}' if facts.palette else '') + '))',
        *_loaders(facts, train, val, [
            f"data_prefix=dict(img_path='images/{p}', seg_map_path='masks/{p}')"
            for p in _parts(facts)]),
        f'model = dict(data_preprocessor=dict(size=crop_size), decode_head=dict(num_classes='
        f'{count}){auxiliary})']


def _detector(facts: Facts, train: str, val: str) -> List[str]:
    count = len(facts.classes)
    width, height = max(facts.size), min(facts.size)
    shrink = min(1, 1333 / width, 800 / height)
    scale = max(64, round(width * shrink)), max(64, round(height * shrink))
    heads = f'bbox_head=dict(num_classes={count})'
    heads = f'roi_head=dict({heads}, mask_head=dict(num_classes={count}))' if facts.masks else heads
    # The recipe leaves out images below 32 pixels.
    small = ', filter_cfg=dict(min_size=0)' if facts.smallest < 32 else ''
    return [
        'train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline',
        f"train_pipeline[2]['scale'] = test_pipeline[1]['scale'] = {scale}",
        *_augment_tests(scale, (0.8, 1, 1.2)),
        'mine = dict(data_root=data_root, metainfo=dict(classes=classes), '
        f"data_prefix=dict(img='images/'){small})",
        *_loaders(facts, train, val, [f"ann_file='{p}.json'" for p in _parts(facts)]),
        *(f"{split}_evaluator = dict(ann_file=data_root + '/{part}.json')"
          for split, part in zip(('val', 'test'), _parts(facts)[1:])),
        f'model = dict({heads})']


def _classifier(facts: Facts, train: str, val: str) -> List[str]:
    count = len(facts.classes)
    side = next((s for s in (64, 128) if min(facts.size) < 1.4 * s), 224)
    return [
        'train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline',
        f"train_pipeline[1]['scale'] = test_pipeline[2]['crop_size'] = {side}",
        f"test_pipeline[1]['scale'] = {round(side / 0.95)}",
        "mine = dict(_delete_=True, type='CustomDataset', data_root=data_root, "
        "data_prefix='images', metainfo=dict(classes=classes))",
        *_loaders(facts, train, val, [f"ann_file='{p}.txt'" for p in _parts(facts)]),
        f'val_evaluator = test_evaluator = dict(topk={(1, 5) if count > 9 else (1, )})',
        f'model = dict(data_preprocessor=dict(num_classes={count}), '
        f'head=dict(num_classes={count}, topk={(1, 5) if count > 9 else (1, )}))']
