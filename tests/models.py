"""Small models: stock and shipped configs that take no time, runs, checkpoints."""
import itertools
from pathlib import Path

import pytest
import torch
from mmengine import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS, init_default_scope

from mmscheme.analysis.random_batch import random_batch
from mmscheme.apis.config import load_config
from mmscheme.apis.train import build_train_runner
from mmscheme.models.backbones.schemeformer import ARCHS
from mmscheme.models.loading import build_model
from mmscheme.utils.config_query import inner_model
from mmscheme.utils.find_checkpoint import find_checkpoint
from tests.utils import REPOSITORY

WIDTHS = [8, 16, 32, 64]
TINY = dict(depths=(1, 1, 1, 1), embed_dims=tuple(WIDTHS))
SIZE = (64, 64)

# For each task a config, and what in its model goes with the width of a tiny backbone.
TINY_CONFIGS = dict(
    cls=('cls_scheme_s_demo', dict(head=dict(in_channels=64))),
    upernet=('upernet_scheme_s_demo', dict(
        decode_head=dict(in_channels=WIDTHS, channels=16),
        auxiliary_head=dict(in_channels=32, channels=16))),
    semantic_fpn=('semantic_fpn_scheme_s_ade20k', dict(
        neck=dict(in_channels=WIDTHS, out_channels=16),
        decode_head=dict(in_channels=[16] * 4, channels=16, num_classes=9))),
    retinanet=('retinanet_scheme_s_coco', dict(
        neck=dict(in_channels=WIDTHS[1:], out_channels=16),
        bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1, num_classes=6))),
    mask_rcnn=('mask_rcnn_scheme_s_demo', dict(
        neck=dict(in_channels=WIDTHS, out_channels=8),
        rpn_head=dict(in_channels=8, feat_channels=8),
        roi_head=dict(
            bbox_roi_extractor=dict(out_channels=8), mask_roi_extractor=dict(out_channels=8),
            bbox_head=dict(in_channels=8, fc_out_channels=8),
            mask_head=dict(in_channels=8, conv_out_channels=8)))))
# Their data sets are replaced by generated scenes.
_SCENES = dict(semantic_fpn='mmscheme.ScenesDataset', retinanet='mmscheme.ScenesInstanceDataset')
_names = itertools.count()


def tiny_config(task, data_root=None, work_dir='none'):
    """Return a shipped config of a task with a model of a few thousand parameters."""
    name, model = TINY_CONFIGS[task]
    cfg = load_config(REPOSITORY / f'configs/{name}.py', str(work_dir),
                      data_root=data_root and str(data_root))
    cfg.model.backbone.arch = dict(TINY)
    cfg.merge_from_dict(dict(model=model))
    if task in _SCENES:
        for split in ('train', 'val', 'test'):
            cfg[f'{split}_dataloader'].dataset.type = _SCENES[task]
    return cfg


def tiny_run(task, data_root, work_dir, workers=0, **options):
    """Return a tiny config whose run takes a second and draws random numbers everywhere."""
    cfg = tiny_config(task, data_root, work_dir)
    cfg.model.backbone.drop_path_rate = 0.3
    if task == 'upernet':
        cfg.train_cfg.update(max_iters=8, val_interval=100)
    else:
        cfg.train_cfg.update(max_epochs=2, val_interval=100)
    if task == 'cls':  # mixing draws numbers in the process of training
        cfg.model.train_cfg = dict(augments=[dict(type='Mixup', alpha=0.8)])
    cfg.train_dataloader.update(batch_size=8 if task == 'cls' else 2, num_workers=workers,
                                persistent_workers=workers > 0)
    cfg.val_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.default_hooks.checkpoint.update(interval=3, by_epoch=False, save_best=None)
    cfg.default_hooks.mixing_schedule.update(decay=(0., 0.6))
    cfg.custom_hooks = [dict(type='EMAHook', momentum=0.1)]
    cfg.randomness = dict(seed=1)
    cfg.merge_from_dict(options)
    return cfg


def distilled(cfg, folder, **arguments):
    """Return a config whose model learns from its dense form, with random weights in a file."""
    cfg = Config(cfg._cfg_dict.to_dict())
    teacher = Config(cfg._cfg_dict.to_dict())
    teacher.model.backbone.update(groups=(1, 1), expansion=4, cca=False)
    torch.manual_seed(1)
    checkpoint = str(Path(folder, 'teacher.pth'))
    torch.save(dict(state_dict=randomise(build_model(teacher)).state_dict()), checkpoint)
    cfg.model = dict(type='mmscheme.Distill', student=cfg.model, teacher=teacher.model,
                     teacher_checkpoint=checkpoint, **arguments)
    return cfg


def tiny_checkpoint(task, folder):
    """Return config file, checkpoint and config of a tiny model with random weights."""
    cfg = tiny_config(task)
    config = folder / f'{TINY_CONFIGS[task][0]}.py'
    cfg.dump(config)
    cfg = Config.fromfile(config)
    torch.manual_seed(0)
    model = randomise(build_model(cfg))
    for key, parameter in model.named_parameters():
        if 'bbox_head' in key and key.endswith('weight'):  # features that differ by place
            # boxes that stay near their anchors, because far ones are far apart after rounding, and
            # scores below 1, because those at 1 are all alike
            parameter.data.normal_(std=0.01 if 'retina_' in key else 0.1)
    meta = dict(classes=tuple('abcdef')) if task == 'cls' else {}
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=meta)),
               config.with_suffix('.pth'))
    return config, str(config.with_suffix('.pth')), cfg


def randomise(model):
    """Give a model values that training could lead to, everything folded far from 1 and 0."""
    generator = torch.Generator().manual_seed(0)
    for name, p in [*model.named_parameters(), *model.named_buffers()]:
        low, high = (-2, 2) if 'alpha_logit' in name else (0.3, 1)
        if 'layer_scale' in name or 'gamma2' in name or 'alpha' in name or 'running_var' in name:
            p.data.uniform_(low, high, generator=generator)
        elif p.dim() == 1 and 'factor' not in name:  # norms and biases
            around = 1. if name.endswith('weight') else 0.
            p.data.uniform_(around - 0.5, around + 0.5, generator=generator)
    return model


class Interrupted(Exception):
    """Ends a run of a test."""


class InterruptHook(Hook):
    """Ends a run in an iteration that nothing has saved yet, or saves it itself first."""

    def __init__(self, iteration, save=False):
        self.iteration, self.save = iteration, save

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration:
            if self.save:
                runner.save_checkpoint(runner.work_dir, 'own.pth', by_epoch=False,
                                       meta=dict(epoch=runner.epoch, iter=runner.iter))
            raise Interrupted


def new_name():
    """Return an experiment name that no runner of this process has."""
    return f'run {next(_names)}'


def train(cfg, interrupt=None, save=False, **kwargs):
    """Train; return the last checkpoint, or None where the run was interrupted."""
    cfg = Config(cfg._cfg_dict.to_dict())
    cfg.experiment_name = new_name()
    runner = build_train_runner(cfg, **kwargs)
    if interrupt is not None:
        runner.register_hook(InterruptHook(interrupt, save))
        with pytest.raises(Interrupted):
            runner.train()
        return None
    runner.train()
    return torch.load(find_checkpoint(cfg.work_dir), weights_only=True)


def stock(package, name):
    """Return the path of a config that a framework ships."""
    return Path(package.__file__).parent / '.mim' / 'configs' / name


def slow_but(paths, part):
    """Return the configs as parameters; those without a part in their name are slow."""
    return [path if part in path.stem else pytest.param(path, marks=pytest.mark.slow)
            for path in paths]


def shrink(cfg):
    """Leave one block a stage in larger networks but classifiers, few regions in detectors."""
    backbone = cfg.model.backbone
    if cfg.default_scope != 'mmpretrain' and backbone.get('arch') in ('s24', 's36', 'm36'):
        backbone.arch = dict(ARCHS[backbone.arch], depths=(1, 1, 1, 1))
    for part in (cfg.model.get('train_cfg') or {}, cfg.model.get('test_cfg') or {}):
        for proposals in (part.get('rpn_proposal'), part.get('rpn')):
            if proposals and 'max_per_img' in proposals:
                proposals.max_per_img = 20
    model = inner_model(cfg.model)
    if 'num_queries' in model:
        model.num_queries = 20
    points = (model.get('decode_head') or {}).get('train_cfg')
    if points:
        points.num_points = 20
    return cfg


def build(cfg):
    """Build the model of a config for images of 64 x 64, the same at every call."""
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = inner_model(cfg.model)
    if 'size' in model.data_preprocessor:
        model.data_preprocessor.size = SIZE
    return MODELS.build(cfg.model)


def check_step_and_prediction(model, cfg, module=None):
    """Check a training step and a prediction on random input; every parameter gets a gradient."""
    model.init_weights()
    batch = random_batch(cfg, SIZE, 2)
    losses = model.train()(**model.data_preprocessor(batch, training=True), mode='loss')
    total, _ = model.parse_losses(losses)
    assert total.isfinite()
    total.backward()
    assert not [n for n, p in (module or model).named_parameters()
                if p.requires_grad and p.grad is None]
    assert all(p.grad.isfinite().all() for p in (module or model).parameters()
               if p.grad is not None)
    with torch.no_grad():
        results = model.eval().test_step(batch)
    assert len(results) == 2
    for result in results:
        if cfg.default_scope == 'mmseg':
            assert result.pred_sem_seg.data.shape == (1, *SIZE)
            assert result.seg_logits.data.isfinite().all()
        elif cfg.default_scope == 'mmpretrain':
            assert result.pred_score.shape == (cfg.model.head.num_classes, )
            assert result.pred_score.sum() == pytest.approx(1, abs=1e-4)
        else:
            found = result.pred_instances
            assert found.bboxes.shape == (len(found.scores), 4)
            assert found.bboxes.isfinite().all() and found.scores.isfinite().all()
            assert 'masks' not in found or found.masks.shape[1:] == SIZE
    return results
