"""A rehearsal finds what a run would find at its first validation, and changes nothing."""
import json
import multiprocessing

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmdet.evaluation import CocoMetric
from mmengine import Config
from mmengine.registry import METRICS, TRANSFORMS
from mmseg.models import EncoderDecoder

from mmscheme.apis.config import load_config
from mmscheme.apis.test import test as run_test
from mmscheme.apis.train import train
from mmscheme.checks import rehearsal as module
from mmscheme.checks import run as run_module
from tests.test_checks.checking import check, only_error, own_data


@pytest.fixture
def no_rules(monkeypatch):
    """The rehearsal alone: no other check beside it."""
    for name in [n for n in vars(run_module) if n.startswith('check_') and n != 'check_run']:
        monkeypatch.setattr(run_module, name, lambda *args, **kwargs: None)


@pytest.mark.parametrize('task, expected', [
    ('seg', {'mIoU': 100, 'aAcc': 100, 'mAcc': 100}),
    ('det', {'coco/bbox_mAP': 1, 'coco/segm_mAP': 1}), ('cls', {'accuracy/top1': 100})])
def test_the_truth_is_perfect(task, expected, box, monkeypatch):
    seen = []
    judge = module._Rehearsal.judge
    monkeypatch.setattr(module._Rehearsal, 'judge', lambda self, metric, watch, needed: (
        seen.append(watch.metrics), judge(self, metric, watch, needed)))
    assert check(box, task).errors == []
    assert {k: round(float(seen[0][k]), 4) for k in expected} == expected


@pytest.mark.slow
@pytest.mark.parametrize('task', ['seg', 'det'])
def test_a_run_has_the_same_weights_with_and_without(task, box, monkeypatch):
    """Bit for bit, after ten iterations, from a config without a seed in the file."""
    length = {'train_cfg.max_iters': 10} if task == 'seg' else {'train_cfg.max_epochs': 10}
    weights = []
    for name, rehearse in (('with', run_module.rehearse), ('without', lambda *args: None)):
        monkeypatch.setattr(run_module, 'rehearse', rehearse)
        cfg = load_config(box.config(task), str(box.folder / name),
                          {**length, 'randomness.seed': 3, 'train_cfg.val_interval': 10},
                          str(box.scenes))
        weights.append(train(cfg).model.state_dict())
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


# --- what the first validation finds ----------------------------------------------------------
def test_annotation_ids_from_0(no_rules, box):
    box.coco(lambda c: [a.update(id=i) for i, a in enumerate(c['annotations'])] and None, 'val')
    assert 'annotation id 0' in only_error(check(box, 'det'))


@METRICS.register_module()
class OwnCocoMetric(CocoMetric):
    """A class of the user's."""


@pytest.mark.parametrize('kind, metric', [('OwnCocoMetric', 'bbox'), ('CocoMetric', 'segm')])
def test_annotation_id_0_for_other_metrics(kind, metric, no_rules, box):
    evaluator = {'val_evaluator.type': kind, 'val_evaluator.metric': metric,
                 'default_hooks.checkpoint.save_best': f'coco/{metric}_mAP'}
    box.coco(lambda c: [a.update(id=i) for i, a in enumerate(c['annotations'])] and None, 'val')
    assert 'annotation id 0' in only_error(check(box, 'det', **evaluator))


def test_annotation_id_0_of_an_image_that_is_not_fed(no_rules, box, monkeypatch):
    monkeypatch.setattr(module, '_IMAGES', 1)
    monkeypatch.setattr(module, '_ANNOTATED', 2)  # the first and the last of three

    def change(content):
        second = sorted(i['id'] for i in content['images'])[1]
        next(a for a in content['annotations'] if a['image_id'] == second)['id'] = 0

    box.coco(change, 'val')
    assert 'annotation id 0' in only_error(check(box, 'det'))


def test_a_metric_of_nothing(no_rules, box):
    """COCO's -1, because the file of the evaluator has no boxes."""
    content = json.loads((box.scenes / 'annotations' / 'instances_val2017.json').read_text())
    path = box.scenes / 'annotations' / 'none.json'
    path.write_text(json.dumps(dict(content, annotations=[])))
    line = only_error(check(box, 'det', **{'val_evaluator.ann_file': str(path)}))
    assert '=-1 ' in line and 'ann_file of the evaluator' in line


@pytest.mark.slow
def test_the_evaluator_has_another_split(no_rules, box):
    found = check(box, 'det', **{
        'val_evaluator.ann_file': str(box.scenes / 'annotations' / 'instances_train2017.json')})
    assert 'ann_file of the evaluator' in only_error(found)
    # and with ids of which the other split has none
    box.coco(lambda c: ([i.update(id=i['id'] + 900) for i in c['images']],
                        [a.update(image_id=a['image_id'] + 900) for a in c['annotations']])
             and None)
    found = check(box, 'det', **{
        'val_evaluator.ann_file': str(box.scenes / 'annotations' / 'instances_train2017.json')})
    assert 'ann_file of the evaluator' in only_error(found)


@pytest.mark.parametrize('crowd', ['missing', None])
def test_no_iscrowd(no_rules, crowd, box):
    def change(content):
        for entry in content['annotations']:
            entry.pop('iscrowd', None)
            entry.update({} if crowd == 'missing' else {'iscrowd': None})

    box.coco(change, 'val')
    assert 'write "iscrowd": 0' in only_error(check(box, 'det'))


def test_the_best_metric_of_another_evaluator(no_rules, box):
    """Pascal's in the place of COCO's, with the checkpoints that are chosen by COCO's."""
    line = only_error(check(box, 'det', (
        "val_evaluator = dict(_delete_=True, type='VOCMetric', metric='mAP')\n"
        'test_evaluator = val_evaluator')))
    assert 'save_best' in line and "'coco/bbox_mAP'" in line and 'pascal_voc/mAP' in line


def test_a_best_metric_that_is_not_there(no_rules, box):
    line = only_error(check(box, 'seg', **{
        'default_hooks.checkpoint.save_best': 'mIoU', 'val_evaluator.iou_metrics': ['mDice']}))
    assert 'save_best' in line and "'mDice'" in line


@pytest.mark.parametrize('task, extra', [
    ('seg', "custom_hooks = [dict(type='EarlyStoppingHook', monitor='bbox_mAP')]"),
    ('det', "param_scheduler = [dict(type='ReduceOnPlateauLR', monitor='bbox_mAP')]")])
def test_a_monitored_metric_that_is_not_there(task, extra, no_rules, box):
    """The one would never stop the run, the other end it at the second validation."""
    line = only_error(check(box, task, extra))
    assert "'bbox_mAP'" in line and extra.split("'")[1] in line


def test_tests_on_other_data_than_validation_are_rehearsed_with_the_hooks(no_rules, box):
    """And what they leave behind does not disturb --tta."""
    hook = "custom_hooks = [dict(type='EarlyStoppingHook', monitor='mIoU')]"
    found = check(box, 'seg', hook, **{'val_dataloader.batch_size': 2})
    assert found.errors == found.warnings == []


def test_no_class_names(no_rules, box):
    assert 'metainfo.classes' in only_error(check(box, 'seg', own_data()))


def test_batch_norm_with_one_image(no_rules, box):
    assert 'more than 1 value per channel' in only_error(
        check(box, 'seg', **{'train_dataloader.batch_size': 1}))


def test_images_of_several_sizes_in_a_batch_of_validation(no_rules, box):
    for folder, suffix in (('images', 'jpg'), ('annotations', 'png')):
        path = str(box.scenes / folder / 'validation' / f'scene_00001.{suffix}')
        cv2.imwrite(path, cv2.imread(path, -1)[:40])
    line = only_error(check(box, 'seg', **{'val_dataloader.batch_size': 2}))
    assert 'val_dataloader.batch_size=1' in line


@pytest.mark.parametrize('length, errors', [(1, 0), (2, 1)])
def test_the_last_image_of_an_epoch_alone(length, errors, no_rules, box):
    """Six images in batches of five, where a run counts iterations and reaches the second."""
    found = check(box, 'seg', **{
        'train_dataloader.batch_size': 5, 'train_dataloader.sampler.type': 'DefaultSampler',
        'train_cfg.max_iters': length}).errors
    assert len(found) == errors and all('more than 1 value per channel' in e for e in found)


def without_reduction(names):
    """Masks whose ids are those of the classes; --tta keeps the base's pipeline."""
    steps = ('_base_.train_pipeline[1]["reduce_zero_label"] = False\n'
             '_base_.test_pipeline[2]["reduce_zero_label"] = False\n')
    return steps + own_data(f'metainfo=dict(classes={names}), ').replace(
        'reduce_zero_label=True', 'reduce_zero_label=False')


@pytest.mark.parametrize('pipeline', [
    "tta_pipeline = [dict(type='LoadImageFromFile'), dict(type='NoSuchStep')]",
    without_reduction(tuple('abcdefghij'))])
def test_the_pipeline_of_tta(no_rules, pipeline, box):
    found = check(box, 'seg', pipeline, **{
        f'model.{head}.num_classes': 10 for head in ('decode_head', 'auxiliary_head')
        if 'NoSuchStep' not in pipeline})
    assert found.errors == [] and any('--tta' in w for w in found.warnings)


# --- what the first iteration finds -----------------------------------------------------------
def test_one_class(no_rules, box):
    for masks in (box.scenes / 'annotations').glob('*/*.png'):
        cv2.imwrite(str(masks), np.minimum(cv2.imread(str(masks), -1), 1))
    found = check(box, 'seg', own_data("metainfo=dict(classes=('thing', )), "), **{
        'model.decode_head.num_classes': 1, 'model.auxiliary_head.num_classes': 1})
    assert 'loss is 0' in only_error(found)


def test_one_channel_without_sigmoid(no_rules, box):
    for masks in (box.scenes / 'annotations').glob('*/*.png'):
        cv2.imwrite(str(masks), np.minimum(cv2.imread(str(masks), -1), 2))
    found = check(box, 'seg', own_data("metainfo=dict(classes=('a', 'b')), "), **{
        f'model.{head}.{key}': value for head in ('decode_head', 'auxiliary_head')
        for key, value in (('num_classes', 2), ('out_channels', 1))})
    assert 'use_sigmoid=True' in only_error(found)


@pytest.mark.slow
def test_a_void_id(no_rules, box):
    """Told everywhere it works; told in one place less it is an error, and never a lower mIoU."""
    for path in (box.scenes / 'annotations').glob('*/*.png'):
        labels = cv2.imread(str(path), -1)
        labels[labels == 0] = 10
        labels[:, :20] = 10
        cv2.imwrite(str(path), labels - 1)
    data = ('dict(dataset=dict(reduce_zero_label=False, ignore_index=9, pipeline=p))')
    extra = (f'p = _base_.train_pipeline\np[1]["reduce_zero_label"] = False\n'
             f'train_dataloader = {data}\np = _base_.test_pipeline\n'
             f'p[2]["reduce_zero_label"] = False\nval_dataloader = {data}\n')
    told = {'model.decode_head.ignore_index': 9, 'model.auxiliary_head.ignore_index': 9,
            'model.data_preprocessor.seg_pad_val': 9, 'val_evaluator.ignore_index': 9}
    extra += ("train_dataloader['dataset']['pipeline'][3]['ignore_index'] = 9\n")
    assert check(box, 'seg', extra, **told).errors == []
    for key in ('model.decode_head.ignore_index', 'val_evaluator.ignore_index'):
        assert 'rehearsal' in only_error(check(
            box, 'seg', extra, **{k: v for k, v in told.items() if k != key})), key


@pytest.mark.slow
def test_the_metric_of_a_void_id(box):
    """The mIoU of a test against one counted from the masks that it writes."""
    void = 9
    for path in (box.scenes / 'annotations').glob('*/*.png'):
        labels = cv2.imread(str(path), -1)
        labels[:, :20] = void + 1
        cv2.imwrite(str(path), labels - (labels > 0))
    extra = without_reduction(tuple('abcdefghi')).replace(
        'reduce_zero_label=False,', f'reduce_zero_label=False, ignore_index={void},')
    told = {'model.decode_head.ignore_index': void, 'model.auxiliary_head.ignore_index': void,
            'test_evaluator.ignore_index': void}
    cfg = load_config(box.config('seg', extra), str(box.folder / 'w'), told, str(box.scenes))
    found = run_test(cfg, str(box.checkpoint()), out=str(box.folder / 'masks'),
                     preflight=False).metrics['mIoU']
    counts = np.zeros((void, void))
    for path in (box.folder / 'masks').iterdir():
        predicted, truth = (cv2.imread(str(p), -1).astype(int) for p in (
            path, box.scenes / 'annotations' / 'validation' / path.name))
        for pair in zip(truth[truth != void], predicted[truth != void]):
            counts[pair] += 1
    unions = counts.sum(0) + counts.sum(1) - counts.diagonal()
    expected = 100 * np.nanmean(np.where(unions, counts.diagonal(), np.nan) / unions)
    assert found == pytest.approx(expected, abs=0.006)  # it is rounded


# --- what the machine has to do with it -------------------------------------------------------
@TRANSFORMS.register_module()
class FailsInAWorker(BaseTransform):
    """A step with something that a worker process does not have."""

    def transform(self, results):
        if torch.utils.data.get_worker_info() is not None:
            raise ValueError('no licence in this process')
        return results


@pytest.mark.slow
@pytest.mark.parametrize('split', ['train', 'test'])
def test_workers(split, box):
    workers = {f'{s}_dataloader.{key}': value for s in ('train', 'val')
               for key, value in (('num_workers', 2), ('persistent_workers', True),
                                  ('prefetch_factor', 2))}
    assert check(box, 'seg', **workers).errors == []
    assert not multiprocessing.active_children()
    step = f"_base_.{split}_pipeline.insert(3, dict(type='FailsInAWorker'))\n"
    loader = 'train' if split == 'train' else 'val'
    extra = f'{step}{loader}_dataloader = dict(dataset=dict(pipeline=_base_.{split}_pipeline))'
    assert check(box, 'seg', extra).errors == []
    line = only_error(check(box, 'seg', extra, **workers))
    assert f'data of {loader}_dataloader in a worker process' in line and 'no licence' in line
    for worker in multiprocessing.active_children():  # it ends by itself
        worker.join(20)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize('error', [
    torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 9 GiB'),
    RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory")])
@pytest.mark.parametrize('method, size', [('loss', 'train_dataloader.batch_size=2'),
                                          ('predict', 'val_dataloader.batch_size=1')])
def test_out_of_memory(error, method, size, box, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(EncoderDecoder, method, fail)
    findings = check(box, 'seg')
    line = only_error(findings)
    assert size in line and 'crop_size' in line and findings.tracebacks == []


def test_findings_outlive_a_device_that_answers_no_more(box, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError('CUDA error: device-side assert triggered')

    monkeypatch.setattr(EncoderDecoder, 'loss', fail)
    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.cuda, 'empty_cache', fail)
    assert 'neither a class of the head nor its ignore_index' in only_error(check(box, 'seg'))


@pytest.mark.slow
@pytest.mark.parametrize('limit, passes', [(1e9, 1), (-1, 0)])
def test_a_long_backward_pass_is_left_out(limit, passes, box, monkeypatch):
    done = []
    backward = torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, 'backward', lambda *args, **kwargs: (
        done.append(1), backward(*args, **kwargs)))
    monkeypatch.setattr(module, '_FORWARD', limit)
    assert check(box, 'seg').errors == [] and len(done) == passes


def test_nothing_is_written(box):
    before = sorted(box.folder.rglob('*'))
    cfg = Config.fromfile(box.config('seg'))
    extra = {'val_evaluator.output_dir': str(box.folder / 'masks')}
    assert check(box, 'seg', **extra).errors == []
    assert {p.name for p in set(box.folder.rglob('*')) - set(before)} <= {
        'tiny_seg.py', *(p.name for p in box.scenes.rglob('*')), 'scenes'}
    assert json.loads(json.dumps(cfg.train_cfg))['max_iters'] == 1
