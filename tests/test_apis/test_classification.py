"""Classification by the command lines."""
import json
import pickle
import sys

import pytest
import torch

from tests.utils import run

DEMO = 'configs/cls_scheme_s_demo.py'
SMALL = ['train_dataloader.num_workers=0', 'val_dataloader.num_workers=0',
         'test_dataloader.num_workers=0', 'train_dataloader.batch_size=8',
         'val_dataloader.batch_size=8', 'test_dataloader.batch_size=8',
         'train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'default_hooks.logger.interval=1']


@pytest.mark.slow
def test_train_and_test_report_accuracy(scenes, tmp_path):
    log = run(sys.executable, 'tools/train.py', DEMO, '--data-root', scenes, '--work-dir',
              tmp_path, '--cfg-options', *SMALL)
    assert 'accuracy/top1' in log
    log = run(sys.executable, 'tools/test.py', DEMO, tmp_path / 'epoch_1.pth', '--data-root',
              scenes, '--work-dir', tmp_path / 't', '--out', tmp_path / 'scores.pkl', '--show-dir',
              tmp_path / 'pictures', '--cfg-options', *SMALL, 'test_evaluator.topk=(1,5)',
              'test_dataloader.batch_size=1')
    metrics = json.loads(next((tmp_path / 't').glob('*/*.json')).read_text())
    assert f'accuracy/top5: {metrics["accuracy/top5"]:.4f}' in log
    with open(tmp_path / 'scores.pkl', 'rb') as f:
        samples = pickle.load(f)
    assert len(samples) == len(list((scenes / 'objects' / 'val').rglob('*.jpg')))
    assert len(list((tmp_path / 'pictures').iterdir())) == len(samples)
    scores = torch.stack([s['pred_score'] for s in samples])
    truth = torch.cat([s['gt_label'] for s in samples])
    top1 = 100 * (scores.argmax(1) == truth).float().mean().item()
    assert metrics['accuracy/top1'] == pytest.approx(top1, abs=1e-3)
