"""From the config and checkpoint of a trained dense model to those of a SCHEME model."""
import json
import os
import time
from copy import deepcopy
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from mmengine import Config
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import Runner
from torch import nn

from mmscheme.analysis.complexity import count_config, leave_out_pretrained
from mmscheme.checks import check_data
from mmscheme.converters import Form, LayerFit, compare_forms, fit_mixers, forms_at
from mmscheme.converters.fit import check_pair, count_positions, find_ffns
from mmscheme.converters.forms import check_budget
from mmscheme.models import SCHEMEformer, SCHEMEWrapper
from mmscheme.models.loading import build_model, load_weights
from mmscheme.utils.checkpoint_io import make_plain, read_weights, save_checkpoint
from mmscheme.utils.config_query import find_class, loader_config, scope_of
from mmscheme.utils.find_checkpoint import find_checkpoint
from mmscheme.utils.markdown import markdown_table
from mmscheme.utils.output_files import write_bytes
from mmscheme.utils.user_errors import StartedHook
from mmscheme.version import __version__

from .config import load_config
from .test import test
from .train import train

__all__ = ['Conversion', 'convert_dense']

# What the table shows of a test; all of it is in the progress file.
_METRICS = ('mIoU', 'bbox_mAP', 'segm_mAP', 'top1', 'PQ')
_LEAST_IMAGES = 8
# So that 15 % of the images can be held out.
_LEAST_BATCHES = 16
# Of the recipe's learning rate: what is fine-tuned has been trained.
_FINETUNE_LR = 0.1


class Conversion(NamedTuple):
    """Describe what to make of a dense model.

    Attributes:
        config: Path of its config.
        checkpoint: Its weights: path or URL.
        out_dir: Folder to write. What an interrupted conversion has left there is not done again.
        form: Groups and expansion; None chooses them at ``budget``.
        budget: Share of the FFNs' multiply-adds.
        within, exclude: Which channel mixers of the whole model, see
            :class:`~mmscheme.models.SCHEMEWrapper`; without both those of the backbone.
        num_images: Training images to fit on.
        distill_iters, finetune_iters: Iterations of each; 0 skips the stage.
        distill_lr: Learning rate of AdamW.
        test: Test the model after each stage.
        seed: Seed of all random numbers.
        data_root, cfg_options: See :func:`~mmscheme.apis.config.load_config`.
    """
    config: str
    checkpoint: str
    out_dir: Path
    form: Optional[Form] = None
    budget: float = 0.5
    within: Optional[Sequence[str]] = None
    exclude: Optional[Sequence[str]] = None
    num_images: int = 256
    distill_iters: int = 0
    finetune_iters: int = 0
    distill_lr: float = 5e-4
    test: bool = True
    seed: int = 0
    data_root: Optional[str] = None
    cfg_options: Optional[Dict[str, Any]] = None

    @property
    def selection(self) -> Dict[str, Any]:
        """The part of ``within`` and ``exclude`` that is given, of the backbone by default."""
        named = dict(within=self.within, exclude=self.exclude)
        chosen = {key: list(value) for key, value in named.items() if value}
        return {**dict(within=['backbone']), **chosen} if chosen else {}


def _read_progress(path: Path, identity: Dict[str, Any]) -> Dict[str, Any]:
    """Return what a conversion has done, as its file says; refuse the file of another one."""
    if not path.is_file():
        return dict(identity=identity, rows={})
    try:
        content = json.loads(path.read_text())
        before, _ = content['identity'], content['rows']
    except (ValueError, KeyError, TypeError) as e:
        raise ValueError(f'{path}: expected the progress of a conversion; remove it to begin '
                         'anew') from e
    for key in {**before, **identity}:
        if before.get(key) != identity.get(key):
            raise ValueError(f'{path.parent}: holds a conversion with {key}={before.get(key)!r}, '
                             f'expected {identity.get(key)!r}; choose another folder to write')
    return content


def convert_dense(job: Conversion, hooks: Sequence[Hook] = (),
                  say: Callable[[str], None] = print) -> Tuple[Path, Path]:
    """Fit, distil and fine-tune a block-diagonal model, and test it after each.

    Args:
        job: What to do.
        hooks: Further hooks for the runners.
        say: Takes lines for the user.

    Returns:
        Config and checkpoint of the new model.

    Raises:
        FileNotFoundError, TypeError, ValueError: Config, checkpoint, data or an argument does not
            allow the conversion.
    """
    if job.num_images < _LEAST_IMAGES:
        raise ValueError(f'--num-images: expected at least {_LEAST_IMAGES}, found '
                         f'{job.num_images}')
    check_budget(job.budget)
    cfg = load_config(job.config, cfg_options=job.cfg_options, data_root=job.data_root)
    init_default_scope(scope_of(cfg))
    weights, meta = read_weights(job.checkpoint)
    dense = build_model(cfg)
    load_weights(dense, weights, job.checkpoint)
    _make_twin(dense, job.selection)
    if job.form:    # before anything takes time
        build_model(_in_form(cfg, job.form, job.selection))
    check_data(cfg, ('train', ), labels=False).finish()
    progress = _read_progress(Path(job.out_dir, 'progress.json'), dict(
        config=os.path.abspath(job.config), checkpoint=job.checkpoint,
        form=job.form and str(job.form), budget=job.budget, num_images=job.num_images,
        seed=job.seed, cfg_options=job.cfg_options and str(job.cfg_options), **job.selection))
    stages = _Stages(job, cfg, meta, progress, hooks, say)
    if 'dense' not in stages.rows:
        stages.record('dense', Path(job.config), job.checkpoint)
    stages.fit(dense)
    stages.train('distilled', job.distill_iters)
    stages.train('fine-tuned', job.finetune_iters)
    say(_table(stages.rows))
    return stages.finish()


def _make_twin(model: nn.Module, selection: Dict[str, Any]) -> None:
    """Turn the dense mixers that are to be converted into SCHEME mixers of one block, in place."""
    backbone = getattr(model, 'backbone', None)
    if isinstance(backbone, SCHEMEformer):
        if selection:
            raise ValueError('--within, --exclude: expected neither for a SCHEMEformer, whose '
                             'mixers are converted together')
        check_pair(model, model)
        return
    if backbone is None and not selection:
        raise ValueError(f'model: {type(model).__name__} has no backbone; --within names the '
                         'channel mixers to convert')
    SCHEMEWrapper(model if selection else backbone, 1, expansion=None, seed_from_dense=True,
                  cca=False, **selection)


def _model_in_form(cfg: Config, form: Form, selection: Dict[str, Any]) -> Dict[str, Any]:
    """Return what a config that inherits ``cfg`` says of its model."""
    model = deepcopy(cfg.model)
    leave_out_pretrained(model)     # its weights come from the checkpoint
    scheme = dict(groups=tuple(form.groups), expansion=form.expansion, cca=False)
    own: Dict[str, Any] = dict(pretrained=None) if cfg.model.get('pretrained') else {}
    if selection:
        return dict(_delete_=True, type='mmscheme.SCHEMEWrapper', **scheme, **selection,
                    backbone=model.to_dict())
    if find_class(MODELS, model.backbone.type) is SCHEMEformer:
        return dict(own, backbone=scheme)
    return dict(own, backbone=dict(_delete_=True, type='mmscheme.SCHEMEWrapper', **scheme,
                                   backbone=model.backbone.to_dict()))


def _in_form(cfg: Config, form: Form, selection: Dict[str, Any]) -> Config:
    new = deepcopy(cfg)
    new.merge_from_dict(dict(model=_model_in_form(cfg, form, selection)))
    return new


def _write_config(job: Conversion, cfg: Config, form: Form, target: Path, weights: Path) -> None:
    """Write the config of the new model: a leaf, where the user's can be inherited from."""
    changes = Config(dict())
    model = _model_in_form(cfg, form, job.selection)
    # Text can neither inherit from a config of imports nor say all that options can.
    whole = bool(job.cfg_options) or Config._is_lazy_import(job.config)
    if whole:
        changes = deepcopy(cfg)
        changes.pop('work_dir', None)
    changes.merge_from_dict(dict(model=model, load_from=str(weights.resolve())))
    text = changes.pretty_text
    if not whole:
        base = os.path.relpath(job.config, target.parent)
        text = f'# {Path(job.config).stem} with SCHEME mixers, {form}.\n_base_ = {base!r}\n{text}'
    write_bytes(target, text.encode())


def _load_batches(cfg: Config, count: int, seed: int) -> List[Dict[str, Any]]:
    """Return batches of training images, with what is known of their shapes alone."""
    settings = loader_config(cfg, 'train')
    settings['dataset'] = DATASETS.build(settings['dataset'])
    count = min(count, len(settings['dataset']))
    if count < _LEAST_IMAGES:
        raise ValueError(f'train_dataloader: expected at least {_LEAST_IMAGES} images, found '
                         f'{count}')
    settings['batch_size'] = max(1, min(settings['batch_size'], count // _LEAST_BATCHES))
    loader = Runner.build_dataloader(settings, seed=seed)
    batches: List[Dict[str, Any]] = []
    seen = 0
    for data in loader:
        samples = [type(s)(metainfo=s.metainfo) for s in data['data_samples']]
        batches.append(dict(inputs=data['inputs'], data_samples=samples))
        seen += len(samples)
        if seen >= count:
            break
    return batches


def _make_run(cfg: Config, whole: bool) -> Callable[[nn.Module, Any], None]:
    # mmseg pads images of different sizes in training alone.
    training = scope_of(cfg) == 'mmseg'

    def run(model: nn.Module, batch: Dict[str, Any]) -> None:
        data = model.data_preprocessor(batch, training)
        if whole:
            model(data['inputs'], data['data_samples'], mode='predict')
        else:
            model.backbone(data['inputs'])

    return run


class _Stages:
    """The stages of a conversion; each that is done already is left out.

    Args:
        job, hooks, say: See :func:`convert_dense`.
        cfg: Config of the dense model.
        meta: Metadata of its checkpoint.
        progress: Of :func:`_read_progress`; rows of the table by stage are in it.
    """

    def __init__(self, job: Conversion, cfg: Config, meta: Dict[str, Any],
                 progress: Dict[str, Any], hooks: Sequence[Hook], say: Callable[[str], None]
                 ) -> None:
        self.job, self.cfg, self.hooks, self.say = job, cfg, hooks, say
        self.progress = progress
        self.rows: Dict[str, Dict[str, Any]] = progress['rows']
        self.meta = {k: meta[k] for k in ('dataset_meta', ) if k in meta}
        self.out = Path(job.out_dir)
        self.last = ''

    @property
    def config(self) -> Path:
        """The config of the new model."""
        form = str(Form(*self.progress['form'])).replace('-', '')
        return self.out / f'{Path(self.job.config).stem}_{form}.py'

    def weights(self, stage: str) -> Path:
        """Return the checkpoint of a stage."""
        return self.out / f'{stage}.pth'

    def record(self, stage: str, config: Path, checkpoint: str, **known: Any) -> None:
        """Count and test the model of a stage, and note that it is done."""
        cfg = load_config(config, str(self.out / 'runs' / f'test {stage}'),
                          self.job.cfg_options if stage == 'dense' else None, self.job.data_root)
        try:
            cost = count_config(cfg).parts['total']
            known.update(params=cost.params, macs=cost.macs)
        except ValueError as e:     # its input has no size of its own
            self.say(f'multiply-adds: {e}')
        metrics: Dict[str, Any] = {}
        if self.job.test:
            cfg.experiment_name = f'{stage}_{time.time_ns()}'
            metrics = dict(test(cfg, checkpoint, hooks=self.hooks,
                                preflight=stage == 'dense').metrics)
        self.rows[stage] = dict(known, metrics=metrics)
        write_bytes(self.out / 'progress.json',
                    json.dumps(self.progress, indent=1, default=float).encode())
        for hook in self.hooks:
            if isinstance(hook, StartedHook):
                hook.started = False    # errors of the next stage are the user's again

    def fit(self, dense: nn.Module) -> None:
        """Choose the form, write the config and fit."""
        self.last = 'fitted'
        if 'fitted' in self.rows:
            return
        job, start = self.job, time.perf_counter()
        torch.manual_seed(job.seed)     # what units a fit adds
        batches = _load_batches(self.cfg, job.num_images, job.seed)
        run = _make_run(self.cfg, bool(job.selection))
        dense.to(get_device()).eval()
        ffns = find_ffns(dense)
        positions = count_positions(dense, ffns, run, batches)

        def build(cfg: Config) -> nn.Module:
            student = build_model(cfg)
            rest = {k: v for k, v in dense.state_dict().items()
                    if not k.startswith(tuple(f'{name}.' for name in ffns))}
            load_weights(student, {**student.state_dict(), **rest}, job.checkpoint)
            return student.to(get_device())

        form = job.form
        if form is None:
            forms = forms_at(job.budget, ffns, positions)
            reports = compare_forms(
                dense, forms, lambda f: build(_in_form(self.cfg, f, job.selection)), run, batches,
                seed=job.seed)
            self.say(_compare(reports))
            form = max(reports, key=lambda f: sum(fit.fitted for fit in reports[f]))
        self.progress.update(form=form)
        _write_config(job, self.cfg, form, self.config, self.config.with_suffix('.pth'))
        student = build(Config.fromfile(self.config))
        work = {name: ffns[name].fc2.in_features ** 2 for name in positions}
        begun, done = time.perf_counter(), []

        def tell(fit: LayerFit) -> None:
            done.append(work[fit.name])
            passed = time.perf_counter() - begun
            left = passed * (sum(work.values()) / sum(done) - 1)
            self.say(f'[{passed:.0f} s, about {left:.0f} s left] {fit.name}: keeps '
                     f'{fit.fitted:.1%} of the output ({fit.projected:.1%} before the fit)')

        report = fit_mixers(student, dense, run, batches, seed=job.seed, progress=tell)
        self._save(student.state_dict(), 'fitted')
        self.progress.update(fit=report)
        self.record('fitted', self.config, str(self.weights('fitted')), images=job.num_images,
                     seconds=time.perf_counter() - start)

    def train(self, stage: str, iterations: int) -> None:
        """Distil or fine-tune."""
        done = self.rows.get(stage)
        settings: Dict[str, Any] = dict(iterations=iterations, start=self.last)
        if stage == 'distilled':
            settings.update(lr=self.job.distill_lr)
        for key, value in settings.items():
            if done and iterations and done.get(key) != value:
                raise ValueError(f'{self.out}: holds a model {stage} with {key}={done.get(key)}, '
                                 f'expected {value}; choose another folder to write')
        # By its length, because another one goes on from no checkpoint of this.
        folder = self.out / 'runs' / f'{stage}_{iterations}'
        if iterations and not done:
            start = time.perf_counter()
            cfg = load_config(self.config, str(folder), None, self.job.data_root)
            if stage == 'distilled':
                self._distil(cfg)
            else:
                cfg.optim_wrapper.optimizer.lr *= _FINETUNE_LR
            _shorten(cfg, iterations, self.job.seed)
            cfg.load_from = str(self.weights(self.last))
            cfg.experiment_name = f'{stage}_{time.time_ns()}'
            batch = cfg.train_dataloader.batch_size
            train(cfg, hooks=self.hooks, resume='auto', preflight=False)
            trained, _ = read_weights(str(find_checkpoint(folder)))
            self._save(trained, stage)
            self.record(stage, self.config, str(self.weights(stage)), **settings,
                         images=iterations * batch, seconds=time.perf_counter() - start)
        if done or iterations:
            self.last = stage

    def _distil(self, cfg: Config) -> None:
        teacher = deepcopy(self.cfg.model)
        leave_out_pretrained(teacher)
        for model in (cfg.model, teacher):
            if cfg.get('data_preprocessor'):
                model.setdefault('data_preprocessor', deepcopy(cfg.data_preprocessor))
        cfg.model = dict(type='mmscheme.Distill', student=cfg.model, teacher=teacher,
                         teacher_checkpoint=self.job.checkpoint)
        cfg.optim_wrapper = dict(
            type='OptimWrapper', clip_grad=dict(max_norm=5.),
            optimizer=dict(type='AdamW', lr=self.job.distill_lr, weight_decay=0.05))
        cfg.custom_hooks = []

    def _save(self, weights: Dict[str, Any], stage: str) -> None:
        save_checkpoint(dict(meta=make_plain(dict(mmscheme_version=__version__, **self.meta)),
                             state_dict={k: v.cpu() for k, v in weights.items()}),
                        self.weights(stage))

    def finish(self) -> Tuple[Path, Path]:
        """Give the last checkpoint the name of the config."""
        target = self.config.with_suffix('.pth')
        write_bytes(target, self.weights(self.last).read_bytes())
        return self.config, target


def _shorten(cfg: Config, iterations: int, seed: int) -> None:
    """Make a training of some iterations without tests of a config."""
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=iterations,
                         val_interval=iterations + 1)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    warmup = max(2, min(100, iterations // 10))  # one step would stay at its first value
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=warmup),
        dict(type='CosineAnnealingLR', by_epoch=False, begin=warmup, end=iterations,
             T_max=max(1, iterations - warmup), eta_min=0.)][:1 + (iterations > warmup)]
    cfg.default_hooks.update(
        checkpoint=dict(type='CheckpointHook', by_epoch=False, max_keep_ckpts=1,
                        interval=max(1, iterations // 10)),
        logger=dict(type='LoggerHook', interval=max(1, min(50, iterations // 10))))
    cfg.default_hooks.pop('pretrained_backbone', None)
    cfg.log_processor = dict(by_epoch=False)
    cfg.randomness = dict(seed=seed)


def _compare(reports: Dict[Form, List[LayerFit]]) -> str:
    """Return a table of what each FFN keeps in each form."""
    rows = [[fits[0].name, *(f'{fit.fitted:.3f}' for fit in fits)]
            for fits in zip(*reports.values())]
    means = [f'{sum(fit.fitted for fit in r) / len(r):.3f}' for r in reports.values()]
    return ('share of the dense output that is kept, on images not fitted\n'
            + markdown_table(['FFN', *reports], [*rows, ['mean', *means]]))


def _table(rows: Dict[str, Dict[str, Any]]) -> str:
    """Return a table of the stages."""
    metrics = {key.rpartition('/')[2]: None for row in rows.values() for key in row['metrics']}
    shown = [name for name in metrics if name in _METRICS] or list(metrics)[:1]
    lines = []
    for stage, row in rows.items():
        found = {key.rpartition('/')[2]: value for key, value in row['metrics'].items()}
        lines.append([stage, *(f'{row[key] / unit:.2f}' if key in row else ''
                               for key, unit in (('params', 1e6), ('macs', 1e9))),
                      *(f'{found[name]:.4g}' if name in found else '' for name in shown),
                      *(f'{row[key]:.0f}' if key in row else '' for key in ('images', 'seconds'))])
    return markdown_table(
        ['model', 'parameters (M)', 'multiply-adds (G)', *shown, 'images', 'seconds'], lines)
