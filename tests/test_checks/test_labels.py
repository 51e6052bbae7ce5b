"""What labels mean: a shift, a void id, a misspelt class, two splits that are one."""
import shutil
import xml.etree.ElementTree as ElementTree

import cv2
import numpy as np
import pytest
from mmcv.transforms import BaseTransform
from mmengine import Config
from mmengine.registry import TRANSFORMS, init_default_scope
from PIL import Image

from mmscheme.checks import Findings, check_data
from mmscheme.checks import data as data_module
from mmscheme.checks import run as run_module
from mmscheme.checks.labels import LabelTable, judge_labels, overlaps
from mmscheme.checks.rehearsal import rehearse
from tests.commands import load_tool
from tests.test_checks.checking import check, only_error, own_data

NAMES = "metainfo=dict(classes=('sky', 'tree')), "
TWO = {f'model.{head}.num_classes': 2 for head in ('decode_head', 'auxiliary_head')}


@pytest.fixture(autouse=True)
def rules_alone(monkeypatch):
    monkeypatch.setattr(run_module, 'rehearse', lambda *args: None)


@pytest.fixture
def rehearsed(rules_alone, monkeypatch):
    monkeypatch.setattr(run_module, 'rehearse', rehearse)


def masks(box, change):
    for path in (box.scenes / 'annotations').glob('*/*.png'):
        cv2.imwrite(str(path), change(cv2.imread(str(path), -1)).astype(np.uint8))


def told(lines, word):
    return any(word in line for line in lines)


def without_reduction(more):
    return ('_base_.train_pipeline[1]["reduce_zero_label"] = False\n'
            '_base_.test_pipeline[2]["reduce_zero_label"] = False\n'
            + own_data(more).replace('reduce_zero_label=True', 'reduce_zero_label=False'))


def test_masks_of_0_and_255(box):
    masks(box, lambda m: np.where(m > 1, 255, 0))
    findings = check(box, 'seg', without_reduction(NAMES), **TWO)
    assert told(findings.errors, "tree would never be learned: write its pixels as 1")
    one = without_reduction("metainfo=dict(classes=('crack', )), ")
    line = check(box, 'seg', one, **dict.fromkeys(TWO, 1)).errors[0]
    assert 'crack' in line and 'two classes' in line
    # a few pixels that are right
    masks(box, lambda m: np.where(np.arange(m.size).reshape(m.shape) < 3, 1, m))
    findings = check(box, 'seg', without_reduction(NAMES), **TWO)
    assert findings.errors == [] and told(findings.warnings, 'are ignored (255)')
    masks(box, lambda m: np.where(m == 255, 1, 0))
    findings = check(box, 'seg', without_reduction(NAMES), **TWO)
    assert findings.errors == [] and not told(findings.warnings, 'ignored')


def test_a_shift_by_one_is_seen(box, capsys):
    """Ids 0 and 1 with two classes, and the base's reduce_zero_label=True."""
    masks(box, lambda m: np.where(m > 1, 2, np.arange(m.shape[1]) % 2))
    findings = check(box, 'seg', own_data(NAMES), **TWO)
    assert findings.errors == []
    assert told(findings.warnings, "id 1 is 'sky'") and told(findings.warnings,
                                                             'reduce_zero_label=False')
    assert told(findings.labels[0].lines(), '  1 sky')


def test_a_table_counts_what_is_there(box):
    masks(box, lambda m: np.where(np.arange(m.shape[1]) < m.shape[1] // 4, 0, 1) + 0 * m)
    findings = check(box, 'seg', without_reduction(NAMES), **TWO)
    train, val = findings.labels
    assert (train.split, train.total, val.total) == ('train', 6, 3)
    assert train.counts == {0: 6 * 48 * 16, 1: 6 * 48 * 48}
    assert told(train.lines(), '25.0 %') and len(train.lines(most=1)) == 1


def test_a_void_id_of_the_data_set_alone(box):
    masks(box, lambda m: np.where(np.arange(m.shape[1]) < 9, 2, m % 2))
    data = without_reduction(NAMES + 'ignore_index=2, ')
    line = check(box, 'seg', data, **TWO).errors[0]
    assert 'class id 2' in line and 'seg_pad_val=2' in line and 'evaluators' in line
    heads = {f'model.{head}.ignore_index': 2 for head in ('decode_head', 'auxiliary_head')}
    others = {'model.data_preprocessor.seg_pad_val': 2, 'val_evaluator.ignore_index': 2}
    found = check(box, 'seg', data, **TWO, **heads).errors  # padding and evaluator as before
    assert len(found) == 2 and all(told(found, key) for key in others)
    findings = check(box, 'seg', data, **TWO, **heads, **others)
    assert findings.errors == [] and not told(findings.warnings, 'are ignored')
    assert told(findings.labels[0].lines(), '2 (ignored)')
    table = LabelTable('train', 'pixels', ('sky', ))
    table.ignored = {2}
    table.add(np.uint8([[0, 2, 255]]))
    assert told(table.lines(), '2 (ignored)') and told(table.lines(), '255 (no class)')


@TRANSFORMS.register_module(name=['OwnMasks', 'OwnAnnotations'])
class OwnMasks(BaseTransform):

    def __init__(self, factor=1, offset=0):
        self.factor, self.offset = factor, offset

    def transform(self, results):
        labels = cv2.imread(results['seg_map_path'], -1).astype(np.float64)
        results['gt_seg_map'] = labels * self.factor + self.offset
        return results


@pytest.mark.parametrize('kind', ['OwnMasks', 'OwnAnnotations'])
def test_a_loader_of_one_s_own(kind, box):
    """Which reads masks of 16 bits, and counts where its ids are those of the classes."""
    for path in (box.scenes / 'annotations').glob('*/*.png'):
        cv2.imwrite(str(path), cv2.imread(str(path), -1).astype(np.uint16) % 2 * 512)
    for options, word in (('factor=1 / 512', ''), ('factor=1 / 512, offset=-1', 'class id -1'),
                          ('factor=1 / 1024', '0.5, expected whole'), ('', 'class id 512')):
        findings = check(box, 'seg', (
            f"_base_.train_pipeline[1] = dict(type='{kind}', {options})\n"
            + own_data(NAMES).replace('zero_label=True', 'zero_label=False')), ('train', ), **TWO)
        assert told(findings.errors, word) if word else not findings.errors, options
    assert set(findings.labels[0].counts) == {0} and set(findings.labels[0].others) == {512}


def test_class_names_of_text(box):
    line = check(box, 'seg', own_data("metainfo=dict(classes=('road')), "), **TWO).errors[0]
    assert "'road'" in line and "['road']" in line


def test_a_class_without_a_pixel(box):
    masks(box, lambda m: 0 * m + 1)
    findings = check(box, 'seg', own_data(NAMES), **TWO)
    assert findings.errors == [] and told(findings.warnings, 'tree')


@pytest.mark.slow
def test_folders_and_names_in_another_order(box):
    folders = sorted(p.name for p in (box.scenes / 'objects' / 'train').iterdir())
    for names, wrong in ((folders, False), (folders[::-1], True)):
        data = f'dict(dataset=dict(metainfo=dict(classes={names})))'
        findings = check(box, 'cls', f'train_dataloader = {data}\nval_dataloader = {data}\n')
        assert bool(findings.errors) == wrong
    assert f'folder {folders[0]} has label 0' in findings.errors[0]
    other = [f'{name.title()}s' for name in folders]  # in another writing
    for names, wrong in ((other, False), (other[::-1], True)):
        data = f'train_dataloader = dict(dataset=dict(metainfo=dict(classes={names})))'
        findings = check(box, 'cls', data, ('train', ))
        assert bool(findings.errors) == wrong and not told(findings.warnings, 'folder')
    # As many as there are classes, but not these.
    (box.scenes / 'objects' / 'train' / folders[-1]).rename(box.scenes / 'objects/train/zebra')
    data = f'train_dataloader = dict(dataset=dict(metainfo=dict(classes={folders})))'
    findings = check(box, 'cls', data, ('train', ))
    assert told(findings.warnings, f'folder zebra has label 5, which metainfo.classes calls '
                                   f'{folders[-1]!r}')


@pytest.fixture
def listed(box):
    """Check a list of the images, with labels by folder, and one that is changed."""
    root = box.scenes / 'objects' / 'train'
    folders = sorted(p.name for p in root.iterdir())

    def write(names, changed=None, first=0, separator=' '):
        lines = [f'{p.relative_to(root)}{separator}{folders.index(p.parent.name) + first}'
                 for p in sorted(root.glob('*/*.jpg'))]
        if changed is not None:
            lines[1] = f'{lines[1].split()[0]} {changed}'
        (box.scenes / 'list.txt').write_text('\n'.join(lines))
        return check(box, 'cls', (
            "train_dataloader = dict(dataset=dict(ann_file='list.txt', "
            f'metainfo=dict(classes={names})))'), ('train', ))

    return folders, write


def test_a_list_and_names_in_another_order(listed):
    folders, write = listed
    for names, wrong in ((folders, False), (folders[::-1], True), (list('uvwxyz'), False)):
        findings = write(names)
        assert bool(findings.errors) == wrong and not told(findings.warnings, 'folder')
    assert f'folder {folders[0]} has label 0' in write(folders[::-1]).errors[0]


@pytest.mark.parametrize('label', [6, -1])
def test_one_label_of_a_list_that_no_class_has(label, listed, monkeypatch):
    """Also where only some of the images are read."""
    monkeypatch.setattr(data_module, '_SAMPLE', 2)
    assert f'label {label} of' in only_error(listed[1](listed[0], label))


def test_one_data_set_for_two_splits(box):
    shutil.rmtree(box.scenes / 'objects' / 'val')
    shutil.copytree(box.scenes / 'objects' / 'train', box.scenes / 'objects' / 'val')
    findings = check(box, 'cls')
    assert not told(findings.warnings, 'images of train too')  # other files
    assert told(overlaps(findings.labels, contents=True), 'images of train too')
    findings = check(box, 'cls', "val_dataloader = dict(dataset=dict(data_prefix='objects/train'))")
    assert told(findings.warnings, 'images of train too')
    findings = check(box, 'cls', 'val_dataloader = dict(dataset=_base_.train_dataloader.dataset)')
    assert told(findings.warnings, 'images of val are images of train too')
    assert [t.split for t in findings.labels][:2] == ['train', 'val']


@pytest.mark.slow
def test_test_data_of_a_training(box):
    """They are in the table; what is wrong with them does not stop a training."""
    data = "test_dataloader = dict(dataset=dict(data_prefix='objects/{}'))"
    findings = check(box, 'cls', data.format('train'))
    assert told(findings.warnings, 'images of test are images of train too')
    assert [t.split for t in findings.labels] == ['train', 'val', 'test']
    findings = check(box, 'cls', data.format('none'))
    assert findings.errors == [] and not told(findings.warnings, 'test data')
    assert [t.split for t in findings.labels] == ['train', 'val']
    image = next((box.scenes / 'objects' / 'val').rglob('*.jpg'))
    shutil.copytree(box.scenes / 'objects' / 'val', box.scenes / 'objects' / 'test')
    (box.scenes / 'objects/test' / image.parent.name / image.name).write_bytes(b'')
    findings = check(box, 'cls', data.format('test'))
    assert findings.errors == [] and told(findings.warnings, 'test data: unreadable image')
    findings = check(box, 'seg', 'test_dataloader = dict(dataset=dict(pipeline=[s for s in '
                     "_base_.test_pipeline if s['type'] != 'LoadAnnotations']))")
    assert findings.errors == [] and not told(findings.warnings, 'test data')


def test_one_root_for_data_sets_that_differ_in_it(box):
    two = ("train = _base_.train_dataloader.dataset\ntrain_dataloader = dict(dataset=dict(\n"
           "    _delete_=True, type='ConcatDataset', datasets=[\n"
           "        dict(train, data_root='first'), dict(train, data_root='{}')]))")
    with pytest.raises(ValueError, match='first, second'):
        check(box, 'seg', two.format('second'))
    assert check(box, 'seg', two.format('first')).errors == []


@pytest.fixture
def voc(box):
    """Two pictures in VOC's layout, and a function that writes their boxes."""
    root = box.folder / 'voc'
    for name in ('JPEGImages', 'Annotations', 'ImageSets/Main'):
        (root / name).mkdir(parents=True)

    def write(objects, names='a\nb\n', difficult=0):
        (root / 'ImageSets/Main/train.txt').write_text(names)
        for name in 'ab':
            cv2.imwrite(str(root / f'JPEGImages/{name}.jpg'), np.full((40, 60, 3), 90, np.uint8))
            top = ElementTree.Element('annotation')
            size = ElementTree.SubElement(top, 'size')
            for key, value in (('width', 60), ('height', 40), ('depth', 3)):
                ElementTree.SubElement(size, key).text = str(value)
            for label, corners in objects:
                thing = ElementTree.SubElement(top, 'object')
                ElementTree.SubElement(thing, 'name').text = label
                ElementTree.SubElement(thing, 'difficult').text = str(difficult)
                where = ElementTree.SubElement(thing, 'bndbox')
                for key, value in zip(('xmin', 'ymin', 'xmax', 'ymax'), corners):
                    ElementTree.SubElement(where, key).text = str(value)
            ElementTree.ElementTree(top).write(root / f'Annotations/{name}.xml')
        cfg = Config(dict(default_scope='mmdet', model=dict(), train_dataloader=dict(dataset=dict(
            type='VOCDataset', data_root=str(root), ann_file='ImageSets/Main/train.txt',
            data_prefix=dict(sub_data_root=''), metainfo=dict(classes=('cat', 'dog')),
            pipeline=[dict(type='LoadImageFromFile')]))))
        init_default_scope('mmdet')
        return check_data(cfg, ('train', ))

    return write


def test_a_misspelt_class_of_voc(voc):
    good = [('cat', (2, 3, 20, 30)), ('dog', (5, 5, 30, 30))]
    assert voc(good).errors == []
    line = only_error(voc([('cat', (2, 3, 20, 30)), ('dgo', (5, 5, 30, 30))]))
    assert "'dog'" in line and "'dgo'" in line and 'but 2 of' in line
    findings = voc([*good, ('cow', (5, 5, 30, 30))])
    assert findings.errors == [] and told(findings.warnings, 'cow')
    assert findings.labels[0].counts == {0: 2, 1: 2}


@pytest.mark.parametrize('trained, wrong', [({0: 3, 1: 1}, False), ({0: 3}, True)])
def test_some_classes_of_voc_and_a_small_validation(trained, wrong):
    """Names that are left out say nothing of a class that training has."""
    tables = [LabelTable(split, 'boxes', ('cat', 'dog'), split) for split in ('train', 'val')]
    tables[0].counts.update(trained)
    tables[1].counts[0] = 3
    findings = Findings()
    for table in tables:
        table.others['cow'] = 2
        judge_labels(table, tables, findings)
    assert bool(findings.errors) == wrong and told(findings.warnings, 'cow') != wrong


def test_boxes_without_area(voc):
    assert 'bbox_min_size' in only_error(
        voc([('cat', (2, 3, 20, 30)), ('dog', (5, 5, 5, 30))]))


def test_boxes_that_are_all_ignored(voc):
    good = [('cat', (2, 3, 20, 30)), ('dog', (5, 5, 30, 30))]
    assert '4 of 4 boxes are ignored' in only_error(voc(good, difficult=1))


def corners(entry, size):
    x, y, w, h = entry['bbox']
    entry['bbox'] = [x, y, x + w, y + h]


def centre(entry, size):
    x, y, w, h = entry['bbox']
    entry['bbox'] = [x + w / 2, y + h / 2, w, h]


def shares(entry, size):
    entry['bbox'] = [v / s for v, s in zip(entry['bbox'], size * 2)]


def larger(entry, size):
    entry['bbox'] = [3 * v for v in entry['bbox']]


@pytest.mark.parametrize('change, is_error, words', [
    (corners, True, 'they look like [x1, y1, x2, y2]'),
    (centre, False, 'boxes reach over the edge'), (larger, True, 'boxes'),
    (shares, True, 'boxes are smaller than a pixel'),
    (lambda entry, size: entry.update(area=0), True, 'without area'),
    (lambda entry, size: entry.pop('segmentation'), True, 'have no segmentation'),
    (lambda entry, size: entry.update(iscrowd=1), True, 'boxes are ignored')])
def test_boxes_in_another_form(change, is_error, words, box):
    """All boxes of a file, of which the metric of a perfect prediction would be perfect too."""
    def of_all(content):
        sizes = {i['id']: (i['width'], i['height']) for i in content['images']}
        for entry in content['annotations']:
            change(entry, sizes[entry['image_id']])

    box.coco(of_all)
    findings = check(box, 'det', splits=('train', ))
    assert len(findings.errors) == is_error
    line = only_error(findings) if is_error else next(w for w in findings.warnings if words in w)
    assert words in line and 'instances_train2017.json' in line


def test_edges_that_are_rounded(box):
    box.coco(lambda c: [a.update(bbox=[v + d for v, d in zip(a['bbox'], (-1, -1, 2, 2))])
                        for a in c['annotations']] and None)
    findings = check(box, 'det', splits=('train', ))
    assert findings.errors == [] and not told(findings.warnings, 'edge')


def test_what_is_there_twice(box):
    """An image with two entries and half of its boxes each; boxes of a file merged with itself."""
    def split(content):
        first = content['images'][0]
        content['images'].append(dict(first, id=99))
        for entry in [a for a in content['annotations'] if a['image_id'] == first['id']][::2]:
            entry['image_id'] = 99

    box.coco(split)
    box.coco(lambda c: c['annotations'].extend(
        [dict(a, id=a['id'] + 1000) for a in c['annotations']]), 'val')
    findings = check(box, 'det')
    assert findings.errors == []
    assert told(findings.warnings, '1 images are listed more than once')
    assert told(findings.warnings, '19 of 38 boxes are there twice')


@pytest.mark.parametrize('task, where', [('seg', 'images/training'), ('det', 'train2017')])
@pytest.mark.parametrize('orientation', [3, 6])
def test_images_that_are_shown_turned(task, where, orientation, box):
    """Their labels, for what is stored, have another size or are upside down."""
    path = box.scenes / where / 'scene_00001.jpg'
    image = Image.open(path)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)
    findings = check(box, task, splits=('train', ))
    if orientation == 3:
        assert findings.errors == [] and told(findings.warnings, 'turns or mirrors 1 images')
    else:
        line = only_error(findings)
        assert path.name in line and '48x64' in line and 'EXIF' in line


def test_ids_of_16_bits(box):
    """65535 becomes 255, which is ignored; 256 becomes 0."""
    path = box.image('annotations')
    mask = cv2.imread(str(path), -1).astype(np.uint16)
    for label, errors in ((65535, 0), (256, 1)):
        mask[0, 0] = label
        cv2.imwrite(str(path), mask)
        assert len(check(box, 'seg', splits=('train', )).errors) == errors


@pytest.mark.parametrize('listed', [False, True])
def test_masks_of_another_name(listed, box):
    """A line for all: a suffix of the masks, and a list whose lines have that of the images."""
    names = [p.name for p in (box.scenes / 'images' / 'training').iterdir()]
    (box.scenes / 'list.txt').write_text('\n'.join(names))
    option = "ann_file='list.txt'" if listed else "seg_map_suffix='_mask.png'"
    line = only_error(check(box, 'seg', f'train_dataloader = dict(dataset=dict({option}))',
                            ('train', )))
    assert 'seg_map_suffix' in line and '.png' in line and 'annotations/training' in line


def test_some_of_the_classes_of_the_files(box):
    """The table has the ids of the files; those of other classes are ignored on purpose."""
    findings = check(box, 'seg', (
        "train_dataloader = dict(dataset=dict(metainfo=dict(classes=('tree', 'sky'))))"),
        ('train', ), **TWO)
    assert findings.errors == [] and not told(findings.warnings, 'ignored')
    table = findings.labels[0]
    assert told(table.lines(), '  5 tree') and told(table.lines(), '  1 sky')
    count = sum(int((cv2.imread(str(p), -1) == 5).sum())
                for p in (box.scenes / 'annotations' / 'training').iterdir())
    assert table.counts[0] == count > 0


def test_ids_without_a_class_are_a_few_in_a_line():
    table = LabelTable('train', 'pixels', ('sky', 'tree'))
    table.add(np.arange(200, dtype=np.uint8)[None])
    assert table.lines(most=20)[0].count('no class') == 5 and len(table.lines()) == 201


def test_a_hidden_folder_is_no_class(box):
    (box.scenes / 'objects' / 'train' / '.ipynb_checkpoints').mkdir()
    assert '.ipynb_checkpoints would be a class' in only_error(check(box, 'cls', splits=('train',)))


def test_labels_from_1(listed):
    folders, write = listed
    findings = write(folders, first=1)
    assert len([e for e in findings.errors if 'folder' in e]) == 1
    assert told(findings.errors, 'from 0') and not told(findings.errors, 'write classes')


def test_a_list_with_commas(listed):
    assert 'a path, a space and a label' in only_error(listed[1](listed[0], separator=','))


def test_a_blank_line_in_a_list(voc):
    good = [('cat', (2, 3, 20, 30)), ('dog', (5, 5, 30, 30))]
    assert voc(good).errors == []
    for text, line in (('a\n\nb\n', 2), ('a\nb\n \n', 3)):
        assert f'train.txt: line {line} is blank' in only_error(voc(good, text))


def test_images_that_are_not_read_are_told(box):
    image = next((box.scenes / 'objects' / 'train').rglob('*.jpg'))
    assert not told(check(box, 'cls').warnings, 'not read')
    cv2.imwrite(str(image.with_suffix('.webp')), cv2.imread(str(image)))
    assert told(check(box, 'cls').warnings, '1 images *.webp are not read')
    cv2.imwrite(str(box.image().with_name('more.bmp')), cv2.imread(str(image)))
    assert told(check(box, 'seg').warnings, '1 images *.bmp are not read')


# --- what must not be refused -----------------------------------------------------------------
@pytest.mark.slow
def test_test_data_without_truth(box, rehearsed):
    box.coco(lambda c: c.pop('annotations') and None, 'val')
    pipeline = ("test_dataloader = dict(dataset=dict(pipeline=[s for s in _base_.test_pipeline "
                "if s['type'] != 'LoadAnnotations']))\n"
                "test_evaluator = dict(format_only=True, {}='out/results')")
    assert check(box, 'det', pipeline.format('outfile_prefix'), splits=('test', )).errors == []
    shutil.rmtree(box.scenes / 'annotations' / 'validation')
    assert check(box, 'seg', pipeline.format('output_dir'), splits=('test', )).errors == []


@pytest.mark.slow
def test_what_nothing_reads(box, rehearsed):
    steps = "dict(dataset=dict(data_prefix=dict(img='train2017/', seg='none/')))"
    assert check(box, 'det', f'train_dataloader = {steps}').errors == []
    box.coco(lambda c: [a.update(segmentation=[[1, 2, 3]]) for a in c['annotations']] and None)
    boxes = ("_base_.train_pipeline[1]['with_mask'] = False\n"
             'train_dataloader = dict(dataset=dict(pipeline=_base_.train_pipeline))')
    detector = {'model.roi_head.mask_head': None, 'val_evaluator.metric': 'bbox'}
    assert check(box, 'det', boxes, **detector).errors == []
    box.coco(lambda c: [i.update(width=float(i['width'])) for i in c['images']] and None)
    assert check(box, 'det', boxes, **detector).errors == []


def test_another_suffix_is_named(box):
    for path in (box.scenes / 'images').glob('*/*.jpg'):
        path.rename(path.with_suffix('.png'))
    assert told(check(box, 'seg').errors, '6 *.png: set img_suffix')


def test_the_tool_prints_the_table_and_draws(box, capsys):
    main = load_tool('misc/check_config').main
    main([*box.train('seg', flags=['--labels', '--pictures', str(box.folder / 'p')])])
    assert '  1 sky' in capsys.readouterr().out
    assert len(list((box.folder / 'p' / 'train').iterdir())) == 4
