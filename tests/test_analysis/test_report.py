"""The report of a test: its numbers, and the page in a real browser."""
import json
import re
import shutil

import numpy as np
import pytest
import torch
from mmengine import Config

from mmscheme.engine.hooks.report_hook import SCORE, ReportHook, confuse_boxes, confuse_labels
from mmscheme.models.loading import build_model
from tests.commands import load_tool
from tests.utils import REPOSITORY

main = load_tool('test').main

OPTIONS = ['test_dataloader.num_workers=0']


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    """Headless Chromium."""
    chromium = shutil.which('chromium') or shutil.which('google-chrome')
    driver = shutil.which('chromedriver')
    if not (chromium and driver):
        pytest.skip('needs chromium and chromedriver (Debian: chromium chromium-driver)')
    webdriver = pytest.importorskip('selenium.webdriver')
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ('--headless=new', '--no-sandbox', '--disable-gpu', '--window-size=1300,1000',
                 '--disable-background-networking', '--disable-dev-shm-usage',
                 f'--user-data-dir={tmp_path_factory.mktemp("profile")}'):
        options.add_argument(flag)
    options.set_capability('goog:loggingPrefs', dict(browser='ALL'))
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield driver
    driver.quit()


def test_and_report(config, options, scenes, folder, *arguments):
    """Tests random weights; the page, its data, and the metrics of the test's own log."""
    cfg = Config.fromfile(REPOSITORY / 'configs' / config)
    cfg.merge_from_dict(options)
    torch.manual_seed(0)
    torch.save(dict(state_dict=build_model(cfg).state_dict()), folder / 'model.pth')
    main([str(REPOSITORY / 'configs' / config), str(folder / 'model.pth'), '--data-root',
          str(scenes), '--work-dir', str(folder / 'w'), '--report', str(folder / 'report'),
          *arguments, '--cfg-options', *OPTIONS, *(f'{k}={v}' for k, v in options.items())])
    page = folder / 'report' / 'report.html'
    text = page.read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S).group(1))
    assert not re.search(r'(?:src|href)="?https?:', text)
    log = max((folder / 'w').glob('*/*.json'), key=lambda p: p.stat().st_mtime)
    return page, data, json.loads(log.read_text())


test_and_report.__test__ = False


@pytest.fixture(scope='module')
def segmentation(scenes, tmp_path_factory):
    return test_and_report(
        'upernet_scheme_s_demo.py', {'model.decode_head.channels': 16,
                                     'model.auxiliary_head.channels': 16},
        scenes, tmp_path_factory.mktemp('seg'), '--keep-cca')


@pytest.fixture(scope='module')
def detection(scenes, tmp_path_factory):
    return test_and_report(
        'mask_rcnn_scheme_s_demo.py', {'model.roi_head.bbox_head.fc_out_channels': 16,
                                       'model.test_cfg.rpn.max_per_img': 20},
        scenes, tmp_path_factory.mktemp('det'))


@pytest.mark.slow
def test_numbers_of_segmentation_are_the_evaluators(segmentation):
    _, data, logged = segmentation
    assert data['metrics']['mIoU'] == pytest.approx(logged['mIoU'], abs=1e-4)
    assert set(data['kept']) == set(data['metrics']) >= {'mIoU', 'aAcc'}
    ious = [row[1] for row in data['rows']]
    assert np.mean(ious) == pytest.approx(data['metrics']['mIoU'], abs=0.01)
    counts = np.array(data['confusion']['counts'])
    assert 100 * counts.trace() / counts.sum() == pytest.approx(data['metrics']['aAcc'], abs=0.01)
    scores = [[i['score'] for i in data['images'] if i['kind'] == k] for k in ('worst', 'best')]
    assert len(scores[0]) == len(scores[1]) == 2 and max(scores[0]) <= min(scores[1])
    assert len({i['name'] for i in data['images']}) == 4
    assert len(data['mixing']['blocks']) == 12 and 'NOT decayed' in data['mixing']['text']
    assert {p[0]: p[1] for p in data['parts']}['backbone'] == 11255640 - 12
    assert 'images/s' in data['speed'] and 'SCHEMEformer' in data['config']
    assert 'PyTorch' in data['environment']


@pytest.mark.slow
def test_numbers_of_detection(detection):
    _, data, logged = detection
    assert data['metrics']['coco/segm_mAP'] == pytest.approx(logged['coco/segm_mAP'])
    assert not [k for k in data['metrics'] if k.endswith('_precision')]
    assert data['columns'][:3] == ['class', 'mask AP', 'objects']
    assert data['rows'] and all(row[1] is not None for row in data['rows'])
    counts = np.array(data['confusion']['counts'])
    assert counts.shape == (len(data['rows']) + 1, ) * 2
    assert sum(row[2] for row in data['rows']) == counts[:-1].sum()


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['segmentation', 'detection'])
def test_page_in_a_browser(browser, kind, request):
    page, data, _ = request.getfixturevalue(kind)
    browser.get_log('browser')
    browser.get(page.as_uri())
    assert browser.get_log('browser') == []
    find = browser.find_elements
    assert browser.title == data['title']
    # Every picture is there.
    pictures = find('css selector', '.pair img')
    assert len(pictures) == 2 * len(data['images']) > 0
    assert all(browser.execute_script('return arguments[0].naturalWidth', p) >= 300
               for p in pictures)
    # A click sorts, a second one the other way round, numbers by their size.
    for column in (0, 2):
        for turn in range(2):
            find('css selector', '#classes th')[column].click()
            shown = [row.find_elements('css selector', 'td')[column].text
                     for row in find('css selector', '#classes tbody tr')]
            assert len(shown) == len(data['rows'])
            values = [row[column] for row in data['rows']]
            expected = sorted(values, reverse=(column > 0) == (turn == 0))
            if column:
                shown = [float(v.replace(',', '')) for v in shown]
            assert shown == expected
    # The slider uncovers more of the prediction, and its line follows.
    slider, over, bar = (find('css selector', s)[0] for s in (
        '.shot input', '.pair img.over', '.pair .bar'))
    assert over.value_of_css_property('clip-path') == 'inset(0px 50% 0px 0px)'
    before = bar.location['x']
    browser.execute_script('arguments[0].focus()', slider)
    for _ in range(20):
        slider.send_keys('\ue014')  # right
    assert over.value_of_css_property('clip-path') == 'inset(0px 40% 0px 0px)'
    assert bar.location['x'] > before
    # Prediction over truth, point by point.
    under = find('css selector', '.pair img')[0]
    assert over.rect == under.rect
    size = browser.execute_script('return [document.querySelector("canvas").width, '
                                  'document.documentElement.scrollWidth, window.innerWidth]')
    assert size[0] > 50 and size[1] <= size[2]
    assert browser.get_log('browser') == []


def test_label_confusion_is_a_loop():
    rng = np.random.default_rng(0)
    truth, predicted = rng.choice([0, 1, 2, 255], (5, 7)), rng.integers(0, 3, (5, 7))
    expected = np.zeros((3, 3), int)
    for t, p in zip(truth.ravel(), predicted.ravel()):
        if t != 255:
            expected[t, p] += 1
    assert np.array_equal(confuse_labels(truth, predicted, 3), expected)


def test_box_confusion():
    truth = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10.]]), np.array([0, 1, 0])
    boxes = np.array([[0, 0, 10, 9], [0, 1, 10, 10], [20, 0, 30, 9], [80, 0, 90, 9],
                      [41, 0, 50, 10], [61, 1, 69, 9.]])
    # Right; the same object again; another class; nothing there; too low; in a crowd.
    labels, scores = np.array([0, 0, 2, 1, 0, 1]), np.array([.9, .8, .7, .6, SCORE - .01, .5])
    crowd = np.array([[60, 0, 70, 10.]])
    counts = confuse_boxes(truth, (boxes, labels, scores), crowd, 3)
    expected = np.zeros((4, 4), int)
    expected[0, 0] = expected[1, 2] = expected[3, 0] = expected[3, 1] = 1
    expected[0, 3] = 1  # the third object was not found
    assert np.array_equal(counts, expected)
    nothing = confuse_boxes((np.zeros((0, 4)), np.zeros(0, int)),
                            (np.zeros((0, 4)), np.zeros(0, int), np.zeros(0)),
                            np.zeros((0, 4)), 3)
    assert not nothing.any()


def test_classification_has_no_report(scenes, tmp_path, capsys):
    with pytest.raises(ValueError, match="--report: .* found 'mmpretrain'"):
        ReportHook('mmpretrain')
    with pytest.raises(SystemExit):
        main([str(REPOSITORY / 'configs' / 'cls_scheme_s_demo.py'), 'x.pth', '--report',
              str(tmp_path)])
    assert 'error: --report: expected' in capsys.readouterr().err
