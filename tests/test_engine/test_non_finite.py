"""Losses that are not finite stay out of the weights, and are named when the log is written."""
import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine import ConfigDict
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import nn
from torch.utils.data import DataLoader

from mmscheme.engine.hooks import NonFiniteLossHook
from mmscheme.engine.hooks import non_finite_hook as non_finite
from mmscheme.utils.user_errors import NonFiniteError

BAD = float('nan')


class Net(BaseModel):
    """A network with running statistics and two terms of a loss."""

    def __init__(self):
        super().__init__()
        self.norm, self.fc = nn.BatchNorm1d(3), nn.Linear(3, 2)

    def forward(self, inputs, data_samples, mode='loss'):
        x = self.fc(self.norm(torch.stack(inputs)))
        return dict(loss_a=x.square().mean(), loss_b=(x - 1).abs().mean(), acc=x.mean())


class FiniteLoss(Net):
    """The gradient is not finite, the loss is."""

    def forward(self, inputs, data_samples, mode='loss'):
        x = self.fc(self.norm(torch.stack(inputs)))
        broken = torch.stack(inputs).max() > 100
        x = x.clamp(-1, 1)
        return dict(loss=(x * 0 if broken else x.abs() + 1).sqrt().sum())


def collate(samples):
    return dict(inputs=[x for x, _ in samples], data_samples=[
        BaseDataElement(metainfo=dict(img_path=name)) for _, name in samples])


def samples(bad=(), count=8, value=BAD):
    generator = torch.Generator().manual_seed(0)
    found = [(torch.randn(3, generator=generator), f'image_{i}.jpg') for i in range(2 * count)]
    for i in bad:
        found[2 * i] = (torch.full((3, ), value), found[2 * i][1])
    return found


def train(data, work_dir, limit=3, model=None, optimizer=None, hooks=None, custom=(), **settings):
    torch.manual_seed(0)
    runner = Runner(
        model=model or Net(), work_dir=str(work_dir), experiment_name=str(work_dir),
        train_dataloader=DataLoader(data, 2, collate_fn=collate),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=optimizer or dict(
            type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.1, weight_decay=0.1),
            **settings),
        default_hooks=hooks or dict(
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1)),
        custom_hooks=[dict(type='mmscheme.NonFiniteLossHook', limit=limit), *custom],
        log_level='WARNING')
    runner.train()
    return runner


def state(runner):
    return runner.model.state_dict()


@pytest.mark.parametrize('value', [BAD, float('inf')])
def test_the_weights_are_those_without_the_batch(value, tmp_path):
    """Of weights, moments of the optimizer and statistics of norms."""
    def fused():
        torch.manual_seed(0)
        model = Net()
        return dict(model=model, optimizer=OptimWrapper(torch.optim.AdamW(
            model.parameters(), lr=0.1, weight_decay=0.1, fused=True)))

    spoilt = train(samples(bad=(2, 3, 6), value=value), tmp_path / 'a', **fused())
    clean = samples()
    without = [s for i, s in enumerate(clean) if i // 2 not in (2, 3, 6)]
    expected = train(without, tmp_path / 'b', **fused())
    for key, tensor in state(expected).items():
        if 'num_batches' not in key:
            assert torch.equal(tensor, state(spoilt)[key]), key
    for a, b in zip(expected.optim_wrapper.optimizer.state.values(),
                    spoilt.optim_wrapper.optimizer.state.values()):
        assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize('value', [BAD, float('inf')])
def test_gradients_of_a_spoilt_step_count_as_zero_where_it_cannot_be_left_out(value, tmp_path):
    """For weights and moments of the optimizer; statistics of norms are those before."""
    spoilt = train(samples(bad=(2, 3, 6), value=value), tmp_path)
    data = samples()
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    for i in range(8):
        if i in (2, 3, 6):
            for p in model.parameters():
                p.grad = torch.zeros_like(p)
        else:
            losses = model([x for x, _ in data[2 * i:2 * i + 2]], None)
            optimizer.zero_grad()
            (losses['loss_a'] + losses['loss_b']).backward()
        optimizer.step()
    for key, tensor in model.state_dict().items():
        if 'num_batches' not in key:
            assert torch.equal(tensor, state(spoilt)[key]), key
    for a, b in zip(optimizer.state.values(), spoilt.optim_wrapper.optimizer.state.values()):
        assert all(torch.equal(a[k], b[k]) for k in a)


def test_what_happens_between_two_logs_is_told_in_full_at_the_next(tmp_path):
    quiet = dict(checkpoint=None, logger=dict(type='LoggerHook', interval=6))
    data = samples(bad=(1, 3, 4), count=12)
    train(data, tmp_path / 'a', hooks=quiet)
    log = next((tmp_path / 'a').glob('*/*.log')).read_text()
    for words in ('iteration 2, 1 of 3', 'iteration 4, 1 of 3', 'iteration 5, 2 of 3',
                  'loss not finite: loss_a=nan, loss_b=nan', 'images: image_8.jpg, image_9.jpg'):
        assert words in log
    with pytest.raises(NonFiniteError, match='at iteration 5, 3 iterations in a row'):
        train(samples(bad=(2, 3, 4), count=12), tmp_path / 'b', hooks=quiet)
    with pytest.raises(NonFiniteError, match='at iteration 8, 3 .*iter_6.pth'):
        # A checkpoint comes before the log.
        train(samples(bad=(5, 6, 7), count=12), tmp_path / 'c', hooks=dict(
            logger=dict(type='LoggerHook', interval=100),
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2)))
    with pytest.raises(NonFiniteError, match='at iteration 12'):
        train(samples(bad=(9, 10, 11), count=12), tmp_path / 'd', hooks=dict(
            checkpoint=None, logger=dict(type='LoggerHook', interval=100)))


def test_a_run_without_such_losses_is_not_changed(tmp_path):
    ours = train(samples(), tmp_path / 'a')
    theirs = Runner(
        model=Net(), work_dir=str(tmp_path / 'b'), experiment_name='plain',
        train_dataloader=DataLoader(samples(), 2, collate_fn=collate),
        train_cfg=dict(by_epoch=True, max_epochs=1), optim_wrapper=dict(
            type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.1, weight_decay=0.1)),
        log_level='WARNING')
    torch.manual_seed(0)
    theirs.model = Net()
    theirs.optim_wrapper = OptimWrapper(torch.optim.AdamW(
        theirs.model.parameters(), lr=0.1, weight_decay=0.1))
    theirs.train()
    assert all(torch.equal(v, state(theirs)[k]) for k, v in state(ours).items())


def test_it_stops_and_says_what_and_which(tmp_path):
    with pytest.raises(NonFiniteError) as error:
        train(samples(bad=(1, 4, 5, 6)), tmp_path)
    text = str(error.value)
    assert 'loss not finite: loss_a=nan, loss_b=nan at iteration 7, 3 iterations in a row' in text
    assert 'images: image_12.jpg, image_13.jpg; ' in text
    last = (tmp_path / 'last_checkpoint').read_text()
    assert last.endswith('iter_6.pth') and f'the last checkpoint is good: {last}' in text
    kept = torch.load(last, weights_only=False)['state_dict']
    assert all(torch.isfinite(v).all() for v in kept.values())
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'iteration 2, 1 of 3 in a row' in log and 'images: image_2.jpg, image_3.jpg' in log
    assert 'iteration 5, 1 of 3' in log and 'iteration 6, 2 of 3' in log


def test_one_term_of_several_is_named(tmp_path):
    class OneTerm(Net):

        def forward(self, inputs, data_samples, mode='loss'):
            losses = super().forward(inputs, data_samples, mode)
            return dict(losses, loss_b=losses['loss_b'] * BAD)

    with pytest.raises(NonFiniteError, match=r'loss not finite: loss_b=nan at iteration 1,'):
        train(samples(), tmp_path, limit=1, model=OneTerm())
    assert not (tmp_path / 'last_checkpoint').exists()


def test_gradients_alone(tmp_path):
    with pytest.raises(NonFiniteError, match='gradients not finite, though the loss is: 4 para'):
        train(samples(bad=(1, 2, 3), value=1000.), tmp_path, model=FiniteLoss())


def test_accumulated_gradients(tmp_path):
    runner = train(samples(bad=(2, )), tmp_path, accumulative_counts=2)
    assert all(torch.isfinite(v).all() for v in state(runner).values())


def test_accumulated_gradients_that_are_spoilt_in_every_step_stop_the_run(tmp_path):
    # The first of the three batches of each step; those between are finite, and no step.
    with pytest.raises(NonFiniteError, match='iteration 4'):
        train(samples(bad=(0, 3, 6)), tmp_path / 'a', accumulative_counts=3)
    train(samples(bad=(0, 6)), tmp_path / 'b', accumulative_counts=3)


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    class Spoils(Net):

        def train_step(self, data, optim_wrapper):
            outputs = super().train_step(data, optim_wrapper)
            if data['data_samples'][0].img_path == 'image_8.jpg':
                with torch.no_grad():
                    self.fc.bias.fill_(BAD)
            return outputs

    with pytest.raises(NonFiniteError, match='1 weights are not finite .* first: fc.bias'):
        train(samples(), tmp_path, model=Spoils())
    assert (tmp_path / 'last_checkpoint').read_text().endswith('iter_4.pth')
    assert not (tmp_path / 'iter_5.pth').exists()


class ScaledWrapper(OptimWrapper):
    """Mixed precision's scaler on the CPU, where mmengine has none."""

    def __init__(self, scale, **kwargs):
        super().__init__(**kwargs)
        self.scaler = torch.amp.GradScaler('cpu', init_scale=scale)

    def backward(self, loss, **kwargs):
        self.scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs):
        self.scaler.step(self.optimizer, **kwargs)
        self.scaler.update()


def scaled(model, scale, fused=False):
    return ScaledWrapper(scale, optimizer=torch.optim.SGD(model.parameters(), lr=0.01, fused=fused))


@pytest.mark.parametrize('fused', [False, True])
def test_steps_that_the_scaler_leaves_out_do_not_count(fused, tmp_path, monkeypatch):
    monkeypatch.setattr(non_finite, 'AmpOptimWrapper', ScaledWrapper)

    class Large(Net):

        def forward(self, *args, **kwargs):
            return {k: 1e3 * v for k, v in super().forward(*args, **kwargs).items()}

    model = Large()
    before = copy.deepcopy(model.state_dict())
    # So large that the first steps overflow.
    runner = train(samples(count=16), tmp_path / 'a', 2, model,
                   scaled(model, 2.**127, fused))
    assert runner.optim_wrapper.scaler.get_scale() < 2.**124
    assert not torch.equal(before['fc.weight'], runner.model.fc.weight)
    assert 'not finite' not in next((tmp_path / 'a').glob('*/*.log')).read_text()
    model = Net()
    with pytest.raises(NonFiniteError, match='loss not finite: loss_a=nan'):
        train(samples(bad=(3, 4)), tmp_path / 'b', 2, model, scaled(model, 1., fused))
    assert all(torch.isfinite(v).all() for v in model.state_dict().values())


@pytest.mark.parametrize('fused', [False, True])
def test_a_scaler_that_never_steps_stops_the_run(fused, tmp_path, monkeypatch):
    monkeypatch.setattr(non_finite, 'AmpOptimWrapper', ScaledWrapper)
    model = FiniteLoss()
    with pytest.raises(NonFiniteError, match='no step in 20 iterations'):
        train(samples(bad=range(30), count=30, value=1000.), tmp_path, 1, model,
              scaled(model, 1., fused))
    assert all(torch.isfinite(v).all() for v in model.state_dict().values())


def test_a_spoilt_first_step_leaves_no_memory_as_momentum(tmp_path):
    model = Net()
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True))
    # What the momentum would be made of, if it were taken as it is found.
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)
    try:
        train(samples(bad=(0, )), tmp_path, model=model, optimizer=optimizer)
    finally:
        torch.use_deterministic_algorithms(False)
    for value in [*model.parameters(), *(s['momentum_buffer']
                                         for s in optimizer.optimizer.state.values())]:
        assert value.isfinite().all()


def test_fused_steps_stay_fused_when_an_older_checkpoint_is_loaded(tmp_path):
    model = Net()
    older = torch.optim.AdamW(model.parameters())
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    older.step()
    checkpoint = dict(optimizer=older.state_dict())
    assert not checkpoint['optimizer']['param_groups'][0]['fused']
    runner = SimpleNamespace(optim_wrapper=OptimWrapper(
        torch.optim.AdamW(model.parameters(), fused=True)))
    NonFiniteLossHook().after_load_checkpoint(runner, checkpoint)
    NonFiniteLossHook().after_load_checkpoint(runner, {})  # weights alone
    # A run that only tests has the config in the place of the optimizer.
    for wrapper in (None, ConfigDict(optimizer=dict(type='AdamW'))):
        NonFiniteLossHook().after_load_checkpoint(SimpleNamespace(optim_wrapper=wrapper),
                                                  copy.deepcopy(checkpoint))
    runner.optim_wrapper.load_state_dict(checkpoint['optimizer'])
    optimizer = runner.optim_wrapper.optimizer
    assert all(group['fused'] for group in optimizer.param_groups)
    scaler = torch.amp.GradScaler('cpu')
    scaler.scale(torch.ones(1))
    scaler.step(optimizer)


def test_limit():
    with pytest.raises(ValueError, match='limit: expected a whole number >= 1, found 0'):
        NonFiniteLossHook(limit=0)
