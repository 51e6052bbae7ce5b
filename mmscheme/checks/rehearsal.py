"""A rehearsal of a run: one training step, a validation in which the truth is predicted, a test."""
import gc
import io
import logging
import os
import tempfile
import time
import traceback
import warnings
from contextlib import contextmanager, redirect_stdout, suppress
from copy import deepcopy
from itertools import islice
from os.path import samefile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence

import numpy as np
import torch
from mmengine import Config
from mmengine.dataset import Compose, DefaultSampler
from mmengine.dist import is_distributed
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmengine.structures import InstanceData, PixelData
from mmengine.utils import ManagerMixin
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmscheme.engine.runners.randomness import keep_random_numbers
from mmscheme.utils.config_query import as_list, iter_datasets, iter_hooks, loader_config, scope_of

from .findings import Findings

__all__ = ['rehearse']

# Images of which the pipeline is run, and images of which only the annotations are fed.
_IMAGES, _ANNOTATED = 8, 200

# Batches in which a labelled pixel is looked for.
_BATCHES = 8

# Seconds of a forward pass on a CPU after which the backward pass, twice as long, is left out.
_FORWARD = 2.

# What a perfect prediction scores, by metric.
_PERFECT = dict(CocoMetric={'bbox_mAP': 1., 'segm_mAP': 1.}, VOCMetric={'mAP': 1.},
                IoUMetric={'mIoU': 100., 'mDice': 100., 'mFscore': 100., 'aAcc': 100.},
                Accuracy={'accuracy/top1': 100.})


def rehearse(cfg: Config, model: nn.Module, splits: Sequence[str], findings: Findings
             ) -> Optional[int]:
    """Do once, on a few images, what the run will do for the first time hours from now.

    That is a training step on a batch of the run, validation with its evaluators, hooks and
    drawing, in which all but the first predictions are the truth, and the pipelines of test and
    ``--tta``. What is needed for training alone is an error; the others are warnings in a
    training. Nothing of the run changes: not its random numbers, and no file.

    Args:
        cfg: The config as it will be run.
        model: A model of it, whose weights will be useless afterwards.
        splits: The data that will be used.
        findings: Findings to add to.

    Returns:
        The iterations of an epoch, if training was rehearsed.
    """
    with tempfile.TemporaryDirectory() as folder, _leave_no_trace():
        rehearsal = _Rehearsal(cfg, model, folder, findings)
        try:
            rehearsal.run(splits)
            epoch = rehearsal.epoch
        finally:
            del rehearsal
    gc.collect()
    if torch.cuda.is_initialized():
        with suppress(RuntimeError):  # after a failed assertion on the device all calls raise
            torch.cuda.empty_cache()
    return epoch


@contextmanager
def _leave_no_trace() -> Iterator[None]:
    """Restore random numbers, and what mmengine keeps for the process; print nothing."""
    before = {cls: dict(cls._instance_dict) for cls in _subclasses(ManagerMixin)}
    with keep_random_numbers(), redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            yield
        finally:
            for cls in _subclasses(ManagerMixin):
                kept = before.get(cls, {})
                for name, made in cls._instance_dict.items():
                    if name not in kept and isinstance(made, logging.Logger):
                        for handler in made.handlers:
                            handler.close()
                cls._instance_dict.clear()
                cls._instance_dict.update(kept)


def _subclasses(cls: Any) -> Iterator[Any]:
    yield cls
    for child in cls.__subclasses__():
        yield from _subclasses(child)


class _Few(List[Any]):
    """Batches in the place of a data set, as copies, because preprocessors write into samples."""
    metainfo: Dict[str, Any]
    dataset: Any

    def __getitem__(self, index: Any) -> Any:
        return deepcopy(super().__getitem__(index))


def _loader(batches: List[Any], dataset: Any) -> DataLoader:
    few = _Few(batches)
    few.metainfo = getattr(dataset, 'metainfo', None) or {}
    few.dataset = dataset  # for its pipeline
    return DataLoader(few, collate_fn=lambda batch: batch[0])


class _Watch(Hook):
    """Note how far a rehearsal came, and what its steps gave."""

    def __init__(self, stage: str = '', part: str = 'train') -> None:
        self.stage, self.part = stage, part
        self.begun = 0.
        self.losses: List[Dict[str, float]] = []
        self.metrics: Dict[str, Any] = {}
        self.evaluators: List[Any] = []
        self.labelled: Optional[int] = 0  # which training batch is
        self.truth, self.boxes, self.pixels = True, 0, False
        self.images: List[Any] = []  # their ids, of detectors
        self.ann_file: Optional[str] = None
        self.told: List[str] = []

    def before_val(self, runner: Any) -> None:
        """Let evaluators that know all images look at those that are fed."""
        self.begin(runner.val_loop, 'validation', 'val')

    def before_test(self, runner: Any) -> None:
        """Let evaluators that know all images look at those that are fed."""
        self.begin(runner.test_loop, 'test', 'test')

    def begin(self, loop: Any, stage: str, part: str) -> None:
        self.stage, self.part, self.evaluators = stage, part, loop.evaluator.metrics

    def after_val_epoch(self, runner: Any, metrics: Any = None) -> None:
        """Note the metrics."""
        self.metrics = dict(metrics or {})

    after_test_epoch = after_val_epoch

    def before_train(self, runner: Any) -> None:
        """Note that training begins; leave out a backward pass that would take long."""
        self.stage, self.part = 'training step', 'train'
        step: Any = getattr(runner.optim_wrapper, 'update_params', None)

        def update_params(loss: Tensor, *args: Any, **kwargs: Any) -> None:
            # What it raises would end a run in its first iteration, not hours from now.
            if loss.is_cuda or not loss.requires_grad or time.time() - self.begun < _FORWARD:
                step(loss, *args, **kwargs)

        if isinstance(runner.optim_wrapper, OptimWrapper):
            runner.optim_wrapper.update_params = update_params

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Note when the forward pass begins."""
        self.begun = time.time()

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None,
                         outputs: Any = None) -> None:
        """Note the losses."""
        self.losses.append({k: float(v) for k, v in (outputs or {}).items()
                            if isinstance(v, (float, Tensor)) and torch.as_tensor(v).numel() == 1})


class _Rehearsal:

    def __init__(self, cfg: Config, model: nn.Module, folder: str, findings: Findings) -> None:
        self.model, self.folder, self.findings = model, folder, findings
        self.epoch: Optional[int] = None
        self.whole = cfg
        # Not the whole config, which would be written to several files.
        self.cfg = cfg = deepcopy(cfg)
        hooks = {k: v for k, v in (cfg.get('default_hooks') or {}).items()
                 if k != 'pretrained_backbone'}
        for _, hook in iter_hooks(cfg):
            self._redirect(hook)
            hook.pop('published_keys', None)
            if 'show' in hook:
                hook['show'] = False
        self.draws = any(isinstance(h, dict) and h.get('draw') for h in hooks.values())
        visualizer = cfg.get('visualizer')
        if visualizer is not None:
            visualizer = dict(visualizer, name='rehearsal',
                              vis_backends=[dict(type='LocalVisBackend')])
        self.env = {k: v for k, v in (cfg.get('env_cfg') or {}).items() if k != 'dist_cfg'}
        self.common = dict(
            work_dir=folder, default_hooks=hooks, custom_hooks=cfg.get('custom_hooks'),
            env_cfg=dict(self.env, dist_cfg=dict(backend='nccl')), log_level='CRITICAL',
            log_processor=cfg.get('log_processor'), visualizer=visualizer,
            default_scope=scope_of(cfg), randomness=dict(seed=0), experiment_name='rehearsal')

    def _redirect(self, part: Dict[str, Any]) -> None:
        """Let a hook or evaluator write to the folder of the rehearsal."""
        for key, value in part.items():
            if 'out' in key and isinstance(value, str) and ('/' in value or '.' in value
                                                            or key.endswith(('dir', 'prefix'))):
                part[key] = str(Path(self.folder, Path(value).name))

    def run(self, splits: Sequence[str]) -> None:
        training = 'train' in splits
        if self.cfg.model.get('module'):
            self.tta(True)
            return
        if training:
            self.main(('train', *(['val'] if self.cfg.get('val_dataloader') else [])), True)
        for split in ('val', 'test'):
            if split in splits and not training:
                self.main((split, ), True)
        if training and not self.findings.errors:
            data = self.cfg.get('test_dataloader')
            if data and data != self.cfg.get('val_dataloader'):
                self.main(('test', ), False)
            self.tta()

    def report(self, text: str, error: bool, cause: Optional[BaseException] = None) -> None:
        if error:
            self.findings.error(text, cause=cause)
        else:
            self.findings.warn(text)

    def main(self, parts: Sequence[str], needed: bool) -> None:
        """Train, validate or test on a few images, and judge what that gives."""
        watch = _Watch()
        arguments: Dict[str, Any] = {}
        try:
            for part in parts:
                watch.stage, watch.part = f'data of {part}_dataloader', part
                arguments.update(self.train_arguments(watch) if part == 'train' else
                                 self.test_arguments(part, watch))
            watch.stage = 'start'
            if 'train' not in parts and self.cfg.get('train_cfg'):  # hooks may look at its loop
                arguments.update(train_dataloader=_loader([None], None),
                                 **{k: self.cfg.get(k) for k in ('train_cfg', 'optim_wrapper')})
            self.model.init_weights = lambda: None
            runner = Runner(model=self.model, **self.common, **arguments)
            runner.cfg = self.whole
            runner.save_checkpoint = lambda *args, **kwargs: None
            runner.register_hook(watch, priority='HIGHEST')
            getattr(runner, parts[0])()
            for part in [*runner.hooks, *as_list(runner.param_schedulers)]:
                monitor = getattr(part, 'monitor', None)
                if isinstance(monitor, str) and watch.metrics and monitor not in watch.metrics:
                    watch.stage = f'monitor of {type(part).__name__}'
                    raise KeyError(monitor)
        except Exception as e:
            self.report(f'rehearsal, {watch.stage}: {self.explain(e, watch)}', needed,
                        None if _is_memory(e) else e)
            return
        finally:  # the model predicts by itself again
            for part in parts:
                vars(self.model).pop(f'{part}_step', None)
        for number, losses in enumerate(watch.losses):
            bad = [k for k, v in losses.items() if not np.isfinite(v)]
            if bad:
                self.findings.warn(f'rehearsal, training step: {", ".join(bad)} is not finite')
            elif losses.get('loss') == 0 and number == watch.labelled:
                self.findings.error(
                    'rehearsal, training step: the loss is 0, so nothing would be learned: one '
                    'class with softmax (for one channel set use_sigmoid=True in the loss)')
        if watch.labelled is None:
            self.findings.warn(f'rehearsal, training step: {_BATCHES} batches without a labelled '
                               'pixel: nothing is learned from those')
        if watch.truth:
            for metric in watch.evaluators:
                self.judge(metric, watch, needed)

    def build_loader(self, split: str) -> DataLoader:
        return Runner.build_dataloader(loader_config(self.cfg, split), seed=0)

    def try_worker(self, loader: DataLoader, index: int, watch: _Watch) -> None:
        """Read a sample once more as a worker hands it over, if the run has workers."""
        if loader.num_workers:
            watch.stage += ' in a worker process'
            method = (self.env.get('mp_cfg') or {}).get('mp_start_method')
            for _ in DataLoader(loader.dataset, batch_sampler=[[index]], num_workers=1, timeout=120,
                                collate_fn=loader.collate_fn, worker_init_fn=loader.worker_init_fn,
                                multiprocessing_context=method if os.name == 'posix' else None):
                pass

    def train_arguments(self, watch: _Watch) -> Dict[str, Any]:
        loader = self.build_loader('train')
        batches: List[Any] = []
        watch.labelled = None
        for indices in islice(loader.batch_sampler, _BATCHES):
            # In this process, where an error has its place in the code.
            batch = loader.collate_fn([loader.dataset[i] for i in indices])
            # Memory is what more than two images would show, and a CPU takes seconds for each.
            few = batch if torch.cuda.is_available() else _first(batch, 2)
            labelled = _labelled(few, self.model)
            if labelled or not batches:
                batches.append(few)
            if labelled:
                watch.labelled = len(batches) - 1
                break
        if not batches:
            raise ValueError(f'{len(loader.dataset)} images give no batch: lower batch_size')
        self.try_worker(loader, indices[0], watch)
        processes = 1 if is_distributed() else int(os.environ.get('WORLD_SIZE', '1'))
        self.epoch = -(-len(loader) // processes)
        size = getattr(loader.batch_sampler, 'batch_size', None) or 1
        last = len(loader.dataset) % size
        loop = dict(self.cfg.train_cfg)
        # A run that counts iterations has one too, unless its sampler has no end.
        reached = 'max_epochs' in loop or isinstance(loader.sampler, DefaultSampler) and \
            loop.get('max_iters', 0) >= self.epoch
        if last and not loader.drop_last and reached:
            batches.append(_first(batch, last))
        for key in ('max_epochs', 'val_interval', 'val_begin'):
            if key in loop:
                loop[key] = 1
        if 'max_iters' in loop:
            loop['max_iters'] = loop['val_interval'] = len(batches)
        loop.pop('dynamic_intervals', None)
        return dict(train_dataloader=_loader(batches, loader.dataset), train_cfg=loop,
                    optim_wrapper=self.cfg.optim_wrapper,
                    param_scheduler=self.cfg.get('param_scheduler'))

    def test_arguments(self, split: str, watch: _Watch) -> Dict[str, Any]:
        """Return loader, loop and evaluator, and let the model predict the truth."""
        loader = self.build_loader(split)
        dataset: Any = loader.dataset
        count = len(dataset)
        chosen = _spread(count, _IMAGES)
        few = [dataset[i] for i in chosen]
        batches = [loader.collate_fn([sample]) for sample in few]
        if (loader.batch_size or 1) > 1:  # images of several sizes may not fit into one
            self.model.data_preprocessor(
                deepcopy(loader.collate_fn(few[:loader.batch_size])), False)
        self.try_worker(loader, chosen[0], watch)
        known: Any = getattr(dataset, 'get_data_info', None)
        infos = [known(i) if known else {} for i in chosen]
        samples = as_list(batches[0].get('data_samples'))
        if 'instances' not in infos[0] and not any(
                key in s for s in samples for key in ('gt_sem_seg', 'gt_label')):
            batches = batches[:1]  # without truth
        names = (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()
        step = f'{split}_step'
        predict: Any = getattr(self.model, step)
        done: List[int] = []
        evaluators = [e for e in as_list(self.cfg.get(f'{split}_evaluator'))
                      if isinstance(e, dict)]
        for evaluator in evaluators:
            self._redirect(evaluator)
        segm = any('segm' in as_list(e.get('metric')) for e in evaluators)
        watch.ann_file = getattr(dataset, 'ann_file', None)
        watch.told = [e['ann_file'] for e in evaluators if e.get('ann_file')]
        if 'instances' in infos[0] and not self.draws:
            sample = batches[0]['data_samples'][0]
            others = [i for i in _spread(count, _ANNOTATED) if i not in chosen]
            infos += [known(i) for i in others]
            batches += [dict(inputs=[], data_samples=[_annotated(sample, info)])
                        for info in infos[len(chosen):]]

        def truth(data: Any) -> Any:
            number = len(done)
            done.append(number)
            if number == 0:  # once is enough for what the network gives
                samples = predict(data)
            elif len(data['inputs']):  # as the network would hand them on
                samples = self.model.data_preprocessor(data, False)['data_samples']
            else:
                samples = data['data_samples']
            for sample in samples:
                watch.images.append(sample.get('img_id'))
                watch.truth &= _predict_truth(sample, infos[number], len(names), segm)
                watch.boxes += len(sample.get('pred_instances') or ())
                watch.pixels |= 'gt_sem_seg' in sample and bool(
                    (sample.gt_sem_seg.data < len(names)).any())
            for metric in watch.evaluators:  # those that know all images look at these alone
                if hasattr(metric, 'img_ids'):
                    metric.img_ids = watch.images
            return samples

        setattr(self.model, step, truth)
        return {f'{split}_dataloader': _loader(batches, dataset),
                f'{split}_cfg': self.cfg.get(f'{split}_cfg') or {},
                f'{split}_evaluator': self.cfg.get(f'{split}_evaluator')}

    def explain(self, error: Exception, watch: _Watch) -> str:
        """Describe an error, with the part of the model or the step that raised it."""
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        if _is_memory(error):
            loader = f'{watch.part}_dataloader'
            return (f'out of memory with {loader}.batch_size='
                    f'{self.cfg[loader].get("batch_size", 1)}: lower it, or the size of the images '
                    '(crop_size, scale)')
        if 'Original Traceback' in text:  # of a worker
            text = text.strip().splitlines()[-1]
        kind = type(error).__name__
        frames = [f for f, _ in traceback.walk_tb(error.__traceback__)]
        owners = [f.f_locals.get('self') for f in frames]
        modules = {id(m): n for n, m in self.model.named_modules() if n}
        where = next((modules[id(o)] for o in reversed(owners) if id(o) in modules), '')
        raised = text
        if isinstance(error, KeyError):
            if watch.metrics:
                return (f'{text!r} is not a metric of the evaluators, which give '
                        f'{sorted(watch.metrics)}: set default_hooks.checkpoint.save_best, or what '
                        'asks for it')
            text = ('the data set has no class names: set metainfo.classes of train, val and test '
                    'data' if text == 'classes' else f'{kind}: {text!r}')
        elif not isinstance(error, (ValueError, OSError)):
            text = f'{kind}: {text or traceback.extract_tb(error.__traceback__)[-1].line}'
        if 'iscrowd' in (traceback.extract_tb(error.__traceback__)[-1].line or ''):
            text = 'annotations have no iscrowd, or null: write "iscrowd": 0 in each'
        if not where:
            part = next((type(o).__name__ for o in reversed(owners) if o is not None and not
                         isinstance(o, (nn.Module, _Rehearsal, Runner, Compose))), '')
            where = part
        if 'is out of bounds' in text or 'device-side assert' in text:
            text += (': a label is neither a class of the head nor its ignore_index (a head with '
                     'out_channels=1 needs use_sigmoid=True in its loss)')
        if 'do not correspond' in text:
            text += ' (the ann_file of the evaluator has other images than the data set)'
        if 'channels' in raised or 'cannot be multiplied' in raised:
            text += f': does in_channels of model.{where.split(".")[0]} fit what it is given?'
        if 'in a batch should be the same' in raised:
            text += f': set {watch.part}_dataloader.batch_size=1'
        if 'size of tensor' in raised and where.endswith('data_preprocessor'):
            text += ': do its mean and std have a value for each channel of the images?'
        return f'{where}: {text}' if where else text

    def judge(self, metric: Any, watch: _Watch, needed: bool) -> None:
        """Compare what the truth scores with what it should."""
        kind = next((c.__name__ for c in type(metric).__mro__ if c.__name__ in _PERFECT), '')
        for key, perfect in _PERFECT.get(kind, {}).items():
            found = [v for k, v in watch.metrics.items()
                     if k in (key, f'{getattr(metric, "prefix", None)}/{key}')]
            empty = bool(found) and not found[0] >= 0  # NaN, or COCO's -1
            right = bool(found) and (found[0] >= perfect * 0.9995 or (
                kind != type(metric).__name__ and found[0] == 1))  # a share, not per cent
            if found and not right and (watch.boxes or watch.pixels or not empty):
                reason, sure = _reason(metric, watch, key, empty)
                self.report(f'rehearsal, {watch.stage}: {type(metric).__name__} gives {key}='
                            f'{found[0]:.4g} for a perfect prediction, {perfect:g} expected: '
                            f'{reason}', needed and sure)
                return
        # The id may be that of an image that was not fed.
        first = getattr(getattr(metric, '_coco_api', None), 'anns', {}).get(0, {})
        if first.get('category_id') in (getattr(metric, 'cat_ids', None) or ()):
            self.report(f'rehearsal, {watch.stage}: {_reason(metric, watch)[0]}', needed)

    def tta(self, needed: bool = False) -> None:
        """Run the pipeline of ``--tta``, and its model on the first of its views."""
        cfg, watch = self.cfg, _Watch('--tta', 'test')
        if not cfg.get('tta_pipeline') or not cfg.get('tta_model') or not cfg.get(
                'test_dataloader'):
            return
        try:
            for dataset in iter_datasets(cfg, ('test', )):
                dataset['pipeline'] = cfg.tta_pipeline
            loader = self.build_loader('test')
            data = loader.collate_fn([loader.dataset[0]])
            self.try_worker(loader, 0, watch)
            views = {k: v[:1] for k, v in data.items()}
            MODELS.build(dict(cfg.tta_model, module=self.model)).eval().test_step(views)
        except Exception as e:
            self.report(f'rehearsal, --tta: {self.explain(e, watch)}', needed, e)


def _is_memory(error: BaseException) -> bool:
    # A CPU's allocator raises a RuntimeError.
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or any(
        words in str(error) for words in ('not enough memory', 'allocate memory'))


def _spread(count: int, most: int) -> List[int]:
    return np.unique(np.linspace(0, count - 1, min(count, most), dtype=int)).tolist()


def _first(batch: Any, count: int) -> Any:
    """Return the first images of a batch."""
    if isinstance(batch, dict):
        return {k: _first(v, count) for k, v in batch.items()}
    return batch[:count] if isinstance(batch, (list, tuple, Tensor)) else batch


def _labelled(batch: Any, model: nn.Module) -> bool:
    """Return False for masks of which every head ignores all pixels."""
    ignored = {m.ignore_index for m in model.modules() if hasattr(m, 'ignore_index')}
    samples = batch.get('data_samples') if isinstance(batch, dict) else ()
    masks = [s.gt_sem_seg.data for s in as_list(samples) if hasattr(s, 'gt_sem_seg')]
    return not masks or any(set(mask.unique().tolist()) - ignored for mask in masks)


def _annotated(like: Any, info: Dict[str, Any]) -> Any:
    """Return a data sample with the boxes of an image, which is not read."""
    shape = (info['height'], info['width']) if 'height' in info else like.ori_shape
    sample = type(like)(metainfo=dict(
        img_id=info.get('img_id'), img_path=info.get('img_path'), ori_shape=shape,
        img_shape=shape, scale_factor=(1., 1.), instances=info['instances']))
    sample.gt_instances, sample.ignored_instances = (
        _instances([i for i in info['instances'] if bool(i.get('ignore_flag')) == ignored])
        for ignored in (False, True))
    return sample


def _instances(boxes: List[Dict[str, Any]]) -> InstanceData:
    return InstanceData(
        bboxes=torch.tensor([b['bbox'] for b in boxes], dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor([b['bbox_label'] for b in boxes], dtype=torch.long))


def _predict_truth(sample: Any, info: Dict[str, Any], classes: int, segm: bool) -> bool:
    """Put the truth in the place of a prediction; return False if it is not known."""
    if 'instances' in info:
        boxes = [i for i in info['instances'] if not i.get('ignore_flag')]
        found = _instances(boxes)
        found.scores = torch.ones(len(boxes))
        if segm:
            size = (info['height'], info['width'])
            found.masks = torch.from_numpy(np.stack(
                [_mask(b['mask'], size) for b in boxes])) if boxes else torch.zeros(0, *size)
        sample.pred_instances = found
    elif 'gt_sem_seg' in sample:
        labels = sample.gt_sem_seg.data
        if 'pred_sem_seg' in sample and sample.pred_sem_seg.shape != sample.gt_sem_seg.shape:
            return False  # the metric will say so
        # What is ignored is predicted as the first class: a network has no output for it.
        sample.pred_sem_seg = PixelData(data=torch.where(labels < classes, labels, 0))
    elif 'gt_label' in sample and classes:
        labels = sample.gt_label
        sample.set_pred_label(labels)
        sample.set_pred_score(torch.zeros(classes).index_fill_(0, labels.long(), 1.))
    else:
        return False
    return True


def _mask(mask: Any, size: Any) -> np.ndarray:
    from pycocotools import mask as coco
    rle = coco.frPyObjects(mask, *size) if not isinstance(mask, dict) or \
        isinstance(mask['counts'], list) else mask
    return coco.decode(coco.merge(rle) if isinstance(rle, list) else rle).astype(bool)


def _reason(metric: Any, watch: _Watch, key: str = '', empty: bool = False) -> Any:
    """Return why the truth is not perfect for a metric, and True unless it may be meant so."""
    api = getattr(metric, '_coco_api', None)
    if api is None:
        ignored = getattr(metric, 'ignore_index', None)
        if empty and ignored is not None:
            return f'it ignores all labels of these images, ignore_index={ignored}', False
        return ('the labels have ids that are neither of a class nor the evaluator\'s '
                f'ignore_index={ignored}' if ignored is not None else
                'its settings are not those of the data set'), True
    if 0 in api.anns:
        return ('pycocotools takes the annotation id 0 for "no match": number the annotations '
                f'from 1 ({watch.ann_file})'), True
    told = [t for t in watch.told if watch.ann_file and not samefile(t, watch.ann_file)]
    if told:
        return (f'the ann_file of the evaluator is {told[0]}, that of the data set '
                f'{watch.ann_file}'), True
    wanted = set(metric.cat_ids)
    boxes = [a for a in api.anns.values() if a['image_id'] in watch.images
             and a['category_id'] in wanted and not a.get('iscrowd')]
    if len(boxes) > watch.boxes:
        return (f'the evaluator has {len(boxes)} boxes in these images, the data set '
                f'{watch.boxes}: those that are empty, tiny or outside of their image are left '
                'out by mmdetection'), False
    # A mask that is drawn and encoded once more may differ in a pixel.
    return 'its settings are not those of the data set', key != 'segm_mAP' or empty
