"""The metrics of a test, written by one process."""
import json
from types import SimpleNamespace

import pytest

from mmscheme.apis.config import load_config, prepare_run
from mmscheme.engine.hooks import LoggerHook
from mmscheme.engine.hooks import logger_hook as logger
from tests.utils import REPOSITORY


@pytest.mark.parametrize('first', [True, False])
def test_one_process_writes_the_metrics(first, tmp_path, monkeypatch):
    lines = []
    runner = SimpleNamespace(
        log_dir=str(tmp_path), test_dataloader=[1], logger=SimpleNamespace(info=lines.append),
        log_processor=SimpleNamespace(get_log_after_epoch=lambda *a, **k: (dict(mIoU=5.), 'line')))
    hook = LoggerHook()
    hook.json_log_path = 'metrics.json'
    monkeypatch.setattr(logger, 'is_main_process', lambda: first)
    hook.after_test_epoch(runner)
    assert lines == ['line'] * first
    assert [p.name for p in tmp_path.iterdir()] == ['metrics.json'] * first
    if first:
        assert json.loads((tmp_path / 'metrics.json').read_text()) == dict(mIoU=5.)


@pytest.mark.parametrize('hooks, kind', [
    (None, 'mmscheme.LoggerHook'), (dict(type='LoggerHook', interval=7), 'mmscheme.LoggerHook'),
    (dict(type='mine.LoggerHook'), 'mine.LoggerHook')])
def test_configs_of_other_projects_get_it(hooks, kind):
    cfg = load_config(REPOSITORY / 'configs' / 'cls_scheme_s_demo.py')
    cfg.default_hooks.pop('logger')
    if hooks:
        cfg.default_hooks.logger = hooks
    prepare_run(cfg, (), preflight=False)
    assert cfg.default_hooks.logger.type == kind
    cfg.default_hooks.logger = None  # switched off
    prepare_run(cfg, (), preflight=False)
    assert cfg.default_hooks.logger is None
    cfg.default_hooks.logger = hooks or {}
    assert not hooks or cfg.default_hooks.logger.get('interval') == hooks.get('interval')
