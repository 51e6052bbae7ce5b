"""One number moves warm-up, decay, validation and checkpoints."""
import pytest
from mmengine import Config

from mmscheme.apis.config import load_config
from mmscheme.apis.run_length import apply_length, set_length
from mmscheme.checks import Findings
from mmscheme.checks.resources import check_schedule
from tests.bad_inputs import Box
from tests.utils import REPOSITORY

CONFIGS = REPOSITORY / 'configs'
FLAGSHIP = CONFIGS / 'upernet_scheme_s_ade20k.py'
DETECTOR = CONFIGS / 'mask_rcnn_scheme_s_coco.py'


def load(path, **options):
    cfg = load_config(path, **options)
    apply_length(cfg)
    return cfg


def parts(cfg):
    warm_up, decay = cfg.param_scheduler
    return (warm_up.end, decay.get('begin', 0), decay.end, cfg.train_cfg.val_interval,
            cfg.default_hooks.checkpoint.interval)


def test_iterations_by_flag_option_and_file(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(f"_base_ = '{FLAGSHIP}'\nmmscheme = dict(iters=8000)\n")
    for cfg in (load(path), load(FLAGSHIP, iters=8000),
                load(FLAGSHIP, cfg_options={'mmscheme.iters': 8000}),
                load(path, epochs=None, iters=8000)):
        assert cfg.train_cfg.max_iters == 8000 and 'mmscheme' not in cfg
        assert parts(cfg) == (75, 75, 8000, 800, 800)
    assert parts(load(path, iters=16000))[2] == 16000
    # The last word counts.
    last = load(path, cfg_options={'train_cfg.max_iters': 320})
    assert last.train_cfg.max_iters == last.param_scheduler[1].end == 320


def test_a_config_of_the_new_style(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text("""from mmengine.hooks import CheckpointHook
from mmengine.optim import LinearLR, PolyLR

model = dict()
train_cfg = dict(max_iters=100, val_interval=50)
param_scheduler = [dict(type=LinearLR, end=10, by_epoch=False),
                   dict(type=PolyLR, begin=10, end=100, by_epoch=False)]
default_hooks = dict(checkpoint=dict(type=CheckpointHook, interval=20, by_epoch=False))
mmscheme = dict(iters=400)
""")
    assert parts(load(path)) == (40, 40, 400, 200, 80)


def test_epochs():
    cfg = load(DETECTOR, epochs=24)
    assert parts(cfg) == (1000, 0, 24, 1, 1)
    assert cfg.param_scheduler[1].milestones == [16, 22]
    cfg = load_config(CONFIGS / 'cls_scheme_s_demo.py')
    cfg.custom_hooks = [dict(type='PipelineSwitchHook', switch_epoch=4),
                        dict(type='SwitchRecipeHook', schedule=[dict(action_epoch=2)])]
    set_length(cfg, epochs=16)
    assert parts(cfg) == (40, 0, 16, 4, 1)
    assert cfg.custom_hooks[0].switch_epoch == 8
    assert cfg.custom_hooks[1].schedule[0].action_epoch == 4
    # A cosine that ends before the run would rise again; 29 of 100 is no 28.
    cfg = Config(dict(model=dict(), train_cfg=dict(max_epochs=300), param_scheduler=[
        dict(type='LinearLR', end=20, convert_to_iter_based=True),
        dict(type='CosineAnnealingLR', begin=150, end=300, T_max=150)]))
    set_length(cfg, epochs=5)
    assert [(s.get('begin'), s.end, s.get('T_max')) for s in cfg.param_scheduler] == [
        (0, 1, None), (2, 5, 3)]
    cfg = Config(dict(model=dict(), train_cfg=dict(max_iters=100), param_scheduler=[
        dict(type='PolyLR', end=100, by_epoch=False)]))
    set_length(cfg, iters=29)
    assert cfg.param_scheduler[0].end == 29


def test_a_length_in_the_other_unit_is_converted(scenes, tmp_path):
    """Of 12 images; for a segmenter 2 and for a detector 6 an iteration."""
    box = Box(tmp_path, scenes)
    cfg = load(box.config('seg'), data_root=str(scenes), epochs=3)
    assert cfg.train_cfg.max_iters == 18
    for drop_last, iters in ((True, 6), (False, 9)):
        cfg = load(box.config('seg'), data_root=str(scenes), epochs=3, cfg_options={
            'train_dataloader.batch_size': 5, 'train_dataloader.drop_last': drop_last})
        assert cfg.train_cfg.max_iters == iters
    for iters, epochs in ((2, 1), (3, 2), (20, 10)):
        cfg = load(box.config('det'), data_root=str(scenes), iters=iters)
        assert cfg.train_cfg.max_epochs == epochs
    with pytest.raises(ValueError, match='epochs: .*cannot be read'):
        load(box.config('seg'), data_root=str(tmp_path / 'no'), epochs=3)


@pytest.mark.parametrize('length, words', [
    (dict(iters=0), 'iters: expected a positive'), (dict(epochs=-1), 'epochs: expected'),
    (dict(iters=1, epochs=1), 'one of epochs and iters'), (800, 'mmscheme: expected dict'),
    (dict(iterations=8), 'mmscheme: expected dict'), (dict(iters='8'), 'positive whole')])
def test_what_is_no_length(length, words):
    cfg = Config(dict(model=dict(), train_cfg=dict(max_iters=8), mmscheme=length))
    with pytest.raises(ValueError, match=words):
        apply_length(cfg)


def test_a_config_without_a_length():
    with pytest.raises(ValueError, match='max_epochs and train_cfg.max_iters'):
        set_length(Config(dict(model=dict(), train_cfg=dict())), iters=3)


# --- schedules that a file has left behind ----------------------------------------------------
@pytest.mark.parametrize('config, changes, epoch, words', [
    (FLAGSHIP, {}, None, None),
    (FLAGSHIP, {'train_cfg.max_iters': 100}, None, ('warm-up ends at iteration 1500',
                                                    'decay ends at iteration 160000')),
    (FLAGSHIP, {'train_cfg.max_iters': 320000}, None, ('decay ends at iteration 160000', )),
    (DETECTOR, {}, 7330, None), (DETECTOR, {}, None, None),
    (DETECTOR, {}, 30, ('warm-up ends at iteration 500, the run at iteration 360', )),
    (DETECTOR, {'train_cfg.max_epochs': 24}, 7330, ('decay ends at epoch 12', )),
    (FLAGSHIP, {'param_scheduler': [dict(type='PolyLR')]}, None, ('set by_epoch=False', )),
    (FLAGSHIP, {'param_scheduler': [dict(type='PolyLR', by_epoch=False)]}, None, None),
    (FLAGSHIP, {'param_scheduler': [dict(type='CosineAnnealingLR', T_max=100, by_epoch=False)]},
     None, ('decay ends at iteration 100', ))])
def test_a_schedule_that_is_not_of_the_length_of_the_run(config, changes, epoch, words):
    cfg, findings = Config.fromfile(config), Findings()
    cfg.merge_from_dict(changes)
    check_schedule(cfg, findings, epoch)
    assert len(findings.warnings) == bool(words)
    for word in words or ():
        assert word in findings.warnings[0]


def test_the_schedules_of_all_our_configs_are_of_their_length():
    for path in CONFIGS.rglob('*_*.py'):
        if '_base_' not in path.parts:
            findings = Findings()
            check_schedule(Config.fromfile(path), findings)
            assert not findings.warnings, path
