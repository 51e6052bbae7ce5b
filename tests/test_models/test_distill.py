"""Distillation: the loss, what trains, and what a checkpoint holds."""
import copy
import re

import numpy as np
import pytest
import torch
from mmengine import Config
from mmengine.model.wrappers import is_model_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing

from mmscheme.analysis.random_batch import random_batch
from mmscheme.apis.train import build_train_runner
from mmscheme.models import Distill
from mmscheme.models.loading import build_model, load_model
from mmscheme.utils.config_query import inner_model
from mmscheme.utils.find_checkpoint import find_checkpoint
from tests.models import SIZE, TINY, WIDTHS, distilled, randomise, tiny_config, tiny_run, train
from tests.utils import readme_code


def build(cfg):
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    return randomise(MODELS.build(cfg.model).train())


def batch_of(cfg, model, labels=True):
    data = model.data_preprocessor(random_batch(cfg, SIZE, 2), True)
    return data['inputs'], data['data_samples'] if labels else None


def plain(task, folder, **arguments):
    """A tiny config without dropout that learns from a dense model."""
    cfg = tiny_config(task)
    cfg.model.backbone.drop_path_rate = 0.
    if task == 'upernet':
        for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
            head.update(dropout_ratio=0., norm_cfg=dict(type='BN'))
        cfg.model.data_preprocessor.size = SIZE
    if task == 'cls':
        cfg.model.train_cfg = None
    return distilled(cfg, folder, **arguments)


def missed(student, teacher):
    """The share of the teacher's variance that is missed, channel by channel in float64."""
    s, t = (x.detach().double().numpy() for x in (student, teacher))
    error = spread = 0.
    for channel in range(t.shape[1]):
        error += ((s[:, channel] - t[:, channel])**2).sum()
        spread += t[:, channel].var() * t[:, channel].size
    return error / spread


def divergence(student, teacher, temperature):
    """The mean divergence of a position, term by term in float64."""
    s, t = (np.moveaxis(x.detach().double().numpy() / temperature, 1, -1).reshape(-1, x.shape[1])
            for x in (student, teacher))
    total = 0.
    for a, b in zip(s, t):
        p, q = (np.exp(v) / np.exp(v).sum() for v in (b, a))
        total += sum(p[i] * (np.log(p[i]) - np.log(q[i])) for i in range(len(p)))
    return temperature**2 * total / len(s)


def stages(backbone, x):
    """The output of each stage of a SCHEMEformer before its norm."""
    found = []
    for down, stage in zip(backbone.downsamples, backbone.stages):
        x = down(x)
        for block in stage:
            x = block(x)
        found.append(x)
    return found


def teacher_of(cfg):
    teacher = build_model(Config(dict(model=cfg.model.teacher, default_scope=cfg.default_scope)))
    teacher.load_state_dict(torch.load(cfg.model.teacher_checkpoint)['state_dict'])
    return teacher


@pytest.mark.parametrize('task', ['cls', 'upernet', 'retinanet'])
def test_the_losses_are_the_formulas(task, tmp_path):
    cfg = plain(task, tmp_path, feature_weight=2., output_weight=3., temperature=1.5)
    model = build(cfg)
    x, _ = batch_of(cfg, model)
    losses = model(x, copy.deepcopy(_), mode='loss')
    twin, teacher = copy.deepcopy(model), teacher_of(cfg)
    with torch.no_grad():
        pairs = [[], []]
        for found, network in zip(pairs, (twin, teacher)):
            found += stages(network.backbone, x)
            features = network.backbone(x)
            if task == 'retinanet':
                found += network.neck(features)
            elif task == 'upernet':
                found.append(network.decode_head(features))
            else:
                found.append(network.head(network.neck(features)))
    count = 4 + 5 * (task == 'retinanet')
    assert float(losses['loss_distill_features'].detach()) == pytest.approx(
        2 * np.mean([missed(s, t) for s, t in zip(*pairs)][:count]), rel=1e-4)
    if task == 'retinanet':
        assert set(losses) == {'loss_distill_features'} and len(pairs[0]) == 9
    else:
        assert float(losses['loss_distill_outputs'].detach()) == pytest.approx(
            3 * divergence(pairs[0][-1], pairs[1][-1], 1.5), rel=1e-4)


@pytest.mark.parametrize('task', ['cls', 'upernet', 'retinanet'])
def test_no_labels_and_every_parameter_that_trains_has_a_gradient(task, tmp_path):
    cfg = plain(task, tmp_path)
    model = build(cfg)
    x, samples = batch_of(cfg, model)
    total, _ = model.parse_losses(model(x, None, mode='loss'))
    total.backward()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    frozen = {n.split('.')[0] for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == dict(cls=set(), upernet={'auxiliary_head'}, retinanet={'bbox_head'})[task]
    own = build(plain(task, tmp_path, keep_student_loss=True))
    assert all(p.requires_grad for p in own.parameters())
    student = build(Config(dict(cfg.to_dict(), model=cfg.model.student)))
    student.load_state_dict(own.state_dict())
    losses, alone = own(x, samples, mode='loss'), student(x, samples, mode='loss')
    assert set(losses) - set(alone) == {k for k in losses if 'distill' in k} != set()
    for key, value in alone.items():
        assert torch.equal(torch.as_tensor(losses[key]), torch.as_tensor(value)), key


@pytest.mark.slow
def test_a_run_trains_the_student_alone_and_resumes(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(Config, 'pretty_text', '')

    def config(name):
        return distilled(tiny_run('upernet', scenes, tmp_path / name), tmp_path)

    cfg = config('whole')
    runner = build_train_runner(Config(cfg._cfg_dict.to_dict()))
    model = runner.model
    assert not is_model_wrapper(model)
    teacher = model.loss.teacher
    before = copy.deepcopy(teacher.state_dict())
    start = copy.deepcopy(model.state_dict())
    runner.train()
    assert not teacher.training and not any(m.training for m in teacher.modules())
    assert all(v.equal(before[k]) for k, v in teacher.state_dict().items())
    assert not any(p.requires_grad for p in teacher.parameters())
    changed = [k for k, v in model.state_dict().items() if not v.equal(start[k])]
    assert len(changed) > 0.9 * len(start)
    average = next(h for h in runner.hooks if type(h).__name__ == 'EMAHook').ema_model.module
    assert average.loss.student is average and average.loss.teacher is teacher
    whole = torch.load(find_checkpoint(cfg.work_dir))
    student = Config(dict(cfg.to_dict(), model=cfg.model.student))
    assert set(whole['state_dict']) == set(build_model(student).state_dict())
    train(config('parts'), 5, preflight=False)
    resumed = train(config('parts'), resume='auto', preflight=False)
    for key in ('state_dict', 'ema_state_dict'):
        assert set(whole[key]) == set(resumed[key])
        assert all(v.equal(resumed[key][k]) for k, v in whole[key].items()), key
    torch.save(whole, tmp_path / 'own.pth')
    loaded, _ = load_model(student, str(tmp_path / 'own.pth'))
    assert len(load_model(cfg, str(tmp_path / 'own.pth'))[0].state_dict()) == len(
        loaded.state_dict())
    assert inner_model(cfg.model) is cfg.model.student


def test_half_precision_and_checkpointing_give_the_same(tmp_path):
    cfg = plain('cls', tmp_path)
    model = build(cfg)
    x, _ = batch_of(cfg, model)

    def gradients(network, half=False):
        network.zero_grad()
        with torch.autocast('cpu', torch.bfloat16, half):
            losses = network(x, None, mode='loss')
        network.parse_losses(losses)[0].backward()
        return torch.cat([p.grad.flatten() for p in network.parameters()])

    expected = gradients(model)
    half = gradients(copy.deepcopy(model), True)
    assert torch.cosine_similarity(half, expected, dim=0) > 0.98
    saving = copy.deepcopy(model)
    saving.backbone.with_cp = True
    assert torch.allclose(gradients(saving), expected, rtol=1e-4, atol=1e-6)
    for part in ('backbone', 'backbone.stages.1'):
        saving = copy.deepcopy(model)
        turn_on_activation_checkpointing(saving, part)
        try:
            found = gradients(saving)
        except ValueError as e:  # reentrant, as torch had it
            assert 'layers: ' in str(e)
        else:
            assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_teacher_of_another_family(tmp_path):
    """Of the same widths; its blocks have other names, so outputs of the backbone are compared."""
    cfg = plain('cls', tmp_path)
    cfg.model.teacher.backbone = dict(type='PoolFormer', arch=dict(
        layers=[1, 1, 1, 1], embed_dims=WIDTHS, mlp_ratios=[4] * 4, layer_scale_init_value=1e-5))
    teacher = build_model(Config(dict(model=cfg.model.teacher, default_scope='mmpretrain')))
    torch.save(dict(state_dict=teacher.state_dict()), cfg.model.teacher_checkpoint)
    model = build(cfg)
    assert model.loss.layers == ['backbone'] and model.loss.logits == 'head'
    assert model(*batch_of(cfg, model, False), mode='loss')['loss_distill_features'].isfinite()
    assert build(plain('cls', tmp_path)).loss.layers == [f'backbone.stages.{i}.0'
                                                         for i in range(4)]


def test_classes_that_do_not_exclude_each_other(tmp_path):
    cfg = plain('cls', tmp_path, feature_weight=0.)
    cfg.model.student.head.loss = dict(type='CrossEntropyLoss', use_sigmoid=True)
    cfg.model.teacher.head.loss = cfg.model.student.head.loss
    model, teacher = build(cfg), teacher_of(cfg)
    x, _ = batch_of(cfg, model)
    loss = model(x, None, mode='loss')['loss_distill_outputs']
    with torch.no_grad():
        s, t = (m.head(m.neck(m.backbone(x))).double().sigmoid() for m in (model, teacher))
    expected = (t * (t / s).log() + (1 - t) * ((1 - t) / (1 - s)).log()).sum(1).mean()
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize('change, error, word', [
    (dict(teacher_checkpoint=None), ValueError, 'teacher_checkpoint'),
    (dict(teacher_checkpoint='none.pth'), FileNotFoundError, 'none.pth'),
    (dict(layers='backbone.stage'), ValueError, 'layers: .*backbone.stage'),
    (dict(layers=(), output_weight=0.), ValueError, 'layers'),
    (dict(feature_weight=-1.), ValueError, 'feature_weight'),
    (dict(temperature=0.), ValueError, 'temperature'),
    (dict(keep_student_loss='no'), TypeError, 'keep_student_loss'),
    (dict(teacher=3), TypeError, 'teacher'),
    (dict(student=dict(type='mmscheme.SCHEMEformer', arch=TINY)), TypeError, 'student')])
def test_bad_arguments(change, error, word, tmp_path):
    cfg = plain('cls', tmp_path)
    for key, value in change.items():
        cfg.model.pop(key, None)
        cfg.model[key] = value
    with pytest.raises(error, match=word):
        build(cfg)


def test_models_that_do_not_fit(tmp_path):
    cfg = plain('cls', tmp_path)
    other = copy.deepcopy(cfg)
    other.model.teacher.data_preprocessor = dict(
        cfg.model.teacher.get('data_preprocessor') or cfg.data_preprocessor, mean=[1., 2., 3.])
    with pytest.raises(ValueError, match='teacher: .*mean'):
        build(other)
    wide = copy.deepcopy(cfg)
    wide.model.student.backbone.arch.embed_dims = (24, 16, 32, 64)
    model = build(wide)
    with pytest.raises(ValueError, match=r"layers: 'backbone.stages.0.0' .*24, 16, 16.*8, 16, 16"):
        model(*batch_of(cfg, model, False), mode='loss')
    del wide.model.teacher.backbone['groups']
    with pytest.raises(ValueError, match=re.escape(cfg.model.teacher_checkpoint)):
        build(wide)
    model = build(Config(dict(cfg.to_dict(), model=cfg.model.student)))
    assert Distill(model, copy.deepcopy(model), layers='backbone') is model


def test_the_page(tmp_path):
    (tmp_path / 'mine.py').write_text(readme_code('distill'))
    cfg = Config.fromfile(tmp_path / 'mine.py')
    cfg.dump(tmp_path / 'dumped.py')
    cfg = Config.fromfile(tmp_path / 'dumped.py')
    for network in (cfg.model.student, cfg.model.teacher):
        network.decode_head.channels = network.auxiliary_head.channels = 8
    teacher = build_model(Config(dict(model=cfg.model.teacher, default_scope='mmseg')))
    torch.save(dict(state_dict=teacher.state_dict()), tmp_path / 'dense.pth')
    cfg.model.teacher_checkpoint = str(tmp_path / cfg.model.teacher_checkpoint)
    model = build(cfg)
    assert model.loss.layers == ['backbone.stages.0.1', 'backbone.stages.1.1',
                                 'backbone.stages.2.5', 'backbone.stages.3.1']
    assert model.loss.logits == 'decode_head.conv_seg'
