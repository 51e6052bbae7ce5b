"""Segmenters with one channel, whose sigmoid is the score of the second class."""
import shutil

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS, init_default_scope

from mmscheme.apis.config import load_config, prepare_run
from mmscheme.apis.inference import load_predictor
from mmscheme.apis.test import test as run_test
from mmscheme.checks import check_run, rehearsal
from mmscheme.deploy.export import export
from mmscheme.deploy.runtime import load_exported
from mmscheme.models.loading import build_model
from tests.commands import load_tool
from tests.models import new_name, randomise, tiny_config, tiny_run, train

predict_main = load_tool('predict').main
exported_main = load_tool('deploy/predict').main
CLASSES = ('rest', 'sky')


@pytest.fixture(scope='module')
def data(scenes, tmp_path_factory):
    """The scenes with masks of 0, 1 and 255; in training nothing is labelled."""
    root = tmp_path_factory.mktemp('binary')
    for split in ('training', 'validation'):
        for folder in ('images', 'annotations'):
            (root / folder / split).mkdir(parents=True)
        for path in (scenes / 'images' / split).iterdir():
            (root / 'images' / split / path.name).symlink_to(path)
            mask = cv2.imread(str(scenes / 'annotations' / split / f'{path.stem}.png'), 0)
            binary = np.where(mask == 0, 255, mask == 1).astype(np.uint8)
            cv2.imwrite(str(root / 'annotations' / split / f'{path.stem}.png'),
                        np.full_like(binary, 255) if split == 'training' else binary)
    return root


def binary(cfg, data):
    """Turn a tiny UPerNet into a segmenter with one channel."""
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.update(type='BaseSegDataset', data_root=str(data), reduce_zero_label=False,
                              metainfo=dict(classes=CLASSES, palette=[[9, 9, 9], [250, 0, 250]]))
        for step in loader.dataset.pipeline:
            if step.type == 'LoadAnnotations':
                step.reduce_zero_label = False
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        head.update(num_classes=2, out_channels=1, threshold=0.4, loss_decode=dict(
            type='CrossEntropyLoss', use_sigmoid=True, loss_weight=head.loss_decode.loss_weight))
    return cfg


@pytest.fixture(scope='module')
def case(data, tmp_path_factory):
    """Config file and checkpoint of a random model that finds both classes."""
    folder = tmp_path_factory.mktemp('model')
    cfg = binary(tiny_config('upernet'), data)
    cfg.work_dir = str(folder / 'runs')
    cfg.dump(folder / 'config.py')
    torch.manual_seed(0)
    model = randomise(build_model(cfg))
    find = load_predictor  # the bias puts the scores of an image around the threshold
    torch.save(dict(state_dict=model.state_dict(), meta={}), folder / 'model.pth')
    image = cv2.imread(str(next((data / 'images' / 'validation').iterdir())))
    score = find(load_config(folder / 'config.py'), str(folder / 'model.pth'), 'cpu').find(
        image).seg_logits.data.median()
    model.decode_head.conv_seg.bias.data += torch.logit(torch.tensor(0.4)) - torch.logit(score)
    torch.save(dict(state_dict=model.state_dict(), meta={}), folder / 'model.pth')
    return folder / 'config.py', str(folder / 'model.pth')


def measure(case, checkpoint=None, **options):
    cfg = load_config(case[0])
    cfg.experiment_name = new_name()
    return run_test(cfg, checkpoint, preflight=False, **options).metrics


@pytest.mark.slow
def test_pictures_masks_and_exported_file(case, data, tmp_path):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    metrics = measure(case, case[1], show_dir=str(tmp_path / 'pictures'), out=str(tmp_path / 'own'))
    names = sorted(p.name for p in (tmp_path / 'own').iterdir())
    assert len(names) == 4 == len(list((tmp_path / 'pictures').iterdir()))
    picture = cv2.imread(str(tmp_path / 'pictures' / names[0]))
    labels = cv2.imread(str(tmp_path / 'own' / names[0]), 0)
    assert 0.05 < labels.mean() < 0.95 and set(np.unique(labels)) == {0, 1}
    # The prediction is the right panel, below its title and enlarged; class 1 is purple.
    scale = picture.shape[1] // (3 * 80)
    panel = picture[22:22 + 64 * scale:scale, 2 * 80 * scale::scale].astype(int)
    purple = panel[..., 0] + panel[..., 2] - 2 * panel[..., 1]
    assert purple[labels == 1].min() > purple[labels == 0].max()

    target = tmp_path / 'model.onnx'
    checks, _ = export(load_config(case[0]), case[1], target)
    assert all(check.passed for check in checks) and '100.000% of the labels' in checks[0].text
    exported = load_exported(target)
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 128, 160), np.uint8)
    raw = exported.run(dict(image=image))
    assert exported.meta['threshold'] == 0.4 and raw['logits'].shape == (1, 1, 128, 160)
    assert np.array_equal(raw['labels'], 1 / (1 + np.exp(-raw['logits'][:, 0])) > 0.4)
    found = measure(case, exported=str(target))
    assert found['mIoU'] == pytest.approx(metrics['mIoU'], abs=0.02) and found['mIoU'] > 5
    images = str(data / 'images' / 'validation')
    predict_main([str(case[0]), case[1], images, '--masks', str(tmp_path / 'a'), '--out',
                  str(tmp_path / 'drawn')])
    exported_main([str(target), images, '--masks', str(tmp_path / 'b')])
    for name in names:
        own, ours, exported = (cv2.imread(str(tmp_path / d / name), -1) for d in ('own', 'a', 'b'))
        assert np.array_equal(own, ours) and (ours == exported).mean() > 0.999


@pytest.mark.slow
def test_one_view_of_tta_is_the_plain_test(case, tmp_path):
    expected = measure(case, case[1])
    cfg = load_config(case[0], cfg_options={'tta_model.type': 'SegTTAModel'})
    pipeline = cfg.test_dataloader.dataset.pipeline
    cfg.tta_pipeline = [pipeline[0], dict(type='TestTimeAug', transforms=[
        [step] for step in pipeline[1:]])]
    cfg.experiment_name = new_name()
    assert run_test(cfg, case[1], preflight=False, tta=True).metrics == pytest.approx(expected)


def test_crops_without_labels_do_not_end_training(data, tmp_path):
    cfg = binary(tiny_run('upernet', data, tmp_path, train_cfg=dict(max_iters=2)), data)
    cfg.train_cfg.max_iters = 2
    state = train(cfg, preflight=False)['state_dict']
    assert all(v.isfinite().all() for v in state.values())


@pytest.mark.slow
def test_checks_of_sparse_labels_see_the_model_of_the_training(data, tmp_path, monkeypatch):
    """Only the last image is labelled, so all pixels of the first batch are ignored."""
    root = shutil.copytree(data, tmp_path / 'data', symlinks=True)
    last = max((root / 'annotations' / 'training').iterdir())
    labels = np.zeros_like(cv2.imread(str(last), 0))
    labels[::2] = 1
    cv2.imwrite(str(last), labels)
    cfg = binary(tiny_run('upernet', root, tmp_path), root)
    cfg.train_cfg.max_iters = 2
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=False)
    init_default_scope('mmseg')
    findings = check_run(cfg, ('train', 'val'))
    assert findings.errors == [] and not any('labelled' in w for w in findings.warnings)
    assert cfg.model.decode_head.loss_decode.type == 'CrossEntropyLoss'
    stock = check_run(cfg, ('train', 'val'), stock_runtime=True).errors
    assert len(stock) == 1 and 'training step' in stock[0]
    monkeypatch.setattr(rehearsal, '_BATCHES', 1)  # and where no label is found
    assert all(v.isfinite().all() for v in train(cfg)['state_dict'].values())


@pytest.mark.parametrize('kind', [dict(type='CrossEntropyLoss', use_sigmoid=True),
                                  dict(type='CrossEntropyLoss', use_sigmoid=True,
                                       avg_non_ignore=True),
                                  dict(type='DiceLoss'), dict(type='TverskyLoss'),
                                  dict(type='LovaszLoss', loss_type='binary', per_image=True)])
def test_losses_of_one_channel_take_ignored_batches(kind, data, tmp_path):
    init_default_scope('mmseg')
    cfg = binary(tiny_config('upernet', work_dir=tmp_path), data)
    cfg.model.decode_head.loss_decode = [kind]
    prepare_run(cfg, (), preflight=False)
    loss, stock = (MODELS.build(c) for c in (cfg.model.decode_head.loss_decode[0], kind))
    torch.manual_seed(0)
    scores = torch.randn(2, 1, 8, 8, requires_grad=True)
    labels = torch.randint(0, 2, (2, 8, 8))
    labels[:, :2] = 255
    assert loss(scores, labels, ignore_index=255) == stock(scores, labels, ignore_index=255)
    if kind['type'] == 'CrossEntropyLoss':
        valid = labels != 255
        expected = F.binary_cross_entropy_with_logits(
            scores[:, 0][valid], labels[valid].float(), reduction='sum')
        total = valid.sum().item() if kind.get('avg_non_ignore') else valid.numel()
        assert loss(scores, labels, ignore_index=255).item() == pytest.approx(
            expected.item() / total, rel=1e-5)
    for options in ({}, dict(reduction_override='none'), dict(reduction_override='sum')):
        ignored = loss(scores, torch.full_like(labels, 255), ignore_index=255, **options).sum()
        ignored.backward()
        assert ignored.isfinite() and scores.grad.isfinite().all()
        if kind['type'] == 'CrossEntropyLoss':
            assert ignored == 0 and not scores.grad.any()
