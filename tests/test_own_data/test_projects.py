"""A project on data of one's own: its labels mean what they meant, and it trains."""
import json

import numpy as np
import pytest
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

from mmscheme.apis.config import load_config
from mmscheme.apis.test import test
from mmscheme.apis.train import train
from mmscheme.checks import Findings
from mmscheme.own_data import make_project
from tests.commands import load_tool
from tests.utils import readme_commands

from . import layouts

test.__test__ = False


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder for data, in a folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / 'data' / 'mine'


def samples(project, split):
    """Return the data set of a split, as the config has it."""
    cfg = load_config(project.config)
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(dict(cfg[f'{split}_dataloader'].dataset, pipeline=[]))
    dataset.full_init()
    return [dataset[i] for i in range(len(dataset))], dataset.metainfo['classes']


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def read_masks(project):
    """Return the mask of each image by name, and the classes."""
    found = {}
    for split in ('train', 'val'):
        some, classes = samples(project, split)
        found.update({s['img_path']: pixels(s['seg_map_path']) for s in some})
    return {int(k.rsplit('/', 1)[1].split('.')[0].split('_')[-1]): v
            for k, v in found.items()}, classes


def read_boxes(project, splits=('train', 'val')):
    """Return class and box of each image, which has one."""
    found = {}
    for split in splits:
        some, classes = samples(project, split)
        for sample in some:
            (box, ) = sample['instances']
            x1, y1, x2, y2 = np.round(box['bbox']).astype(int).tolist()
            stem = sample['img_path'].rsplit('/', 1)[1].split('.')[0]
            found[stem] = (classes[box['bbox_label']], x1, y1, x2 - x1, y2 - y1)
    return found


WRITERS = {
    'coco without split': ('det', layouts.write_coco),
    'voc': ('det', layouts.write_voc),
    'yolo': ('det', layouts.write_yolo),
    'class folders': ('cls', layouts.write_folders),
    'palette with void': ('seg', lambda root: layouts.write_masks(root, layouts.save_palette)),
    'ids with gaps': ('seg', lambda root: layouts.write_masks(
        root, layouts.save_grey, ids=(3, 7, 12))),
}
PAGES = dict(seg='tutorial new segmenter', det='tutorial new detector',
             cls='tutorial new classifier')
TINY = {'train_dataloader.batch_size': 2, 'train_dataloader.num_workers': 0,
        'val_dataloader.num_workers': 0, 'test_dataloader.num_workers': 0,
        'default_hooks.visualization': None}


@pytest.mark.slow
@pytest.mark.parametrize('layout', WRITERS)
def test_check_is_clean_and_it_trains(layout, data, tmp_path, capsys, safe_checkpoints):
    task, write = WRITERS[layout]
    write(data)
    before = sorted(p for p in data.rglob('*'))
    load_tool('new').main(readme_commands(PAGES[task])[0][4:])
    out = capsys.readouterr().out
    assert ' 0 errors, 0 warnings' in out, out
    assert out.splitlines()[-1] == 'next: python -m mmscheme train my_project.py'
    assert sorted(p for p in data.rglob('*')) == before
    config = tmp_path / 'my_project.py'
    assert len(config.read_text().splitlines()) <= 30
    length = {'max_iters': 1} if task == 'seg' else {'max_epochs': 1}
    cfg = load_config(config, 'work', {**TINY, **{
        f'train_cfg.{k}': v for k, v in {**length, 'val_interval': 1}.items()}})
    if task != 'seg':  # an iteration
        cfg.train_dataloader.dataset.indices = 2
    else:
        cfg.default_hooks.checkpoint.interval = 1
    runner = train(cfg, preflight=False)
    assert runner.iter == 1
    checkpoint = (tmp_path / 'work' / 'last_checkpoint').read_text()
    # An iteration finds no objects; without any box there is no metric.
    cfg = load_config(config, 'work', {**TINY, **(
        {'model.test_cfg.score_thr': 0.} if task == 'det' else {})})
    metrics = test(cfg, checkpoint, preflight=False)[0]
    key = dict(seg='mIoU', det='coco/bbox_mAP', cls='accuracy/top1')[task]
    assert np.isfinite(metrics[key])


@pytest.mark.parametrize('write, splits', [
    (layouts.write_coco, 'train val'), (layouts.write_voc, 'train val'),
    (layouts.write_yolo, 'train val'), (layouts.write_cvat_yolo, 'train val'),
    (layouts.write_roboflow_yolo, 'train val test'), (layouts.write_roboflow_coco, None)])
def test_boxes_are_those_of_the_source(write, splits, data):
    write(data)
    project = make_project('det', data, 'my_project')
    if splits is None:
        found = {}
        for split in ('train', 'val', 'test'):
            boxes = read_boxes(project, (split, ))
            assert all(k.startswith({'val': 'valid'}.get(split, split)) for k in boxes)
            assert boxes == {k: layouts.truth_box(int(k.split('_')[1])) for k in boxes}
            found.update(boxes)
        assert project.facts.classes == ['dog', 'car', 'tree']  # not the root of the categories
    else:
        found = read_boxes(project, splits.split())
        assert found == {k: layouts.truth_box(int(k)) for k in found}
    assert len(found) == 12
    content = json.loads((project.folder / 'train.json').read_text())
    assert min(a['id'] for a in content['annotations']) == 1
    assert all(a['iscrowd'] == 0 for a in content['annotations'])


@pytest.mark.parametrize('save, ids, classes', [
    (layouts.save_palette, (0, 1, 2), ['background', 'class_1', 'class_2']),
    (layouts.save_grey, (1, 2, 3), ['class_1', 'class_2', 'class_3']),
    (layouts.save_three, (0, 5, 9), ['background', 'class_5', 'class_9']),
    (layouts.save_wide, (0, 300, 1000), ['background', 'class_300', 'class_1000']),
    (layouts.save_colours, (0, 1, 2), ['#000000', '#008000', '#800000'])])
def test_masks_are_those_of_the_source(save, ids, classes, data):
    layouts.write_masks(data, save, ids=ids)
    project = make_project('seg', data, 'my_project')
    found, names = read_masks(project)
    assert list(names) == classes and len(found) == 9
    order = [0, 2, 1] if save is layouts.save_colours else [0, 1, 2]
    for i, mask in found.items():
        assert np.array_equal(mask, layouts.mask_ids(i, order))


def test_two_values_are_two_classes(data):
    """255 is an object where there is nothing else beside 0."""
    layouts.write_masks(data, layouts.save_grey, ids=(0, 255), void=False)
    found, names = read_masks(make_project('seg', data, 'my_project'))
    assert list(names) == ['background', 'foreground']
    assert all(np.array_equal(m, layouts.mask_ids(i, (0, 1), False)) for i, m in found.items())


@pytest.mark.parametrize('file, text, ids, classes', [
    ('classes.txt', 'sky\nroad\ncar\n', (0, 1, 2), ['sky', 'road', 'car']),
    ('classes.txt', 'sky\nroad\ncar\n', (1, 2, 3), ['sky', 'road', 'car']),
    ('classes.txt', 'road\ncar\n', (0, 1, 2), ['background', 'road', 'car']),
    ('classes.txt', 'sky\nroad\ncar\n', (4, 7, 9), ['sky', 'road', 'car']),
    ('_classes.csv', 'Pixel Value, Class\n0, sky\n1, road\n2, car\n', (0, 1, 2),
     ['sky', 'road', 'car']),
    ('labelmap.txt', '# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:0,128,0::\n'
     'road:128,0,0::\n', (0, 1, 2), ['background', 'road', 'car'])])
def test_names_of_values(file, text, ids, classes, data):
    save = layouts.save_palette if file == 'labelmap.txt' else layouts.save_grey
    layouts.write_masks(data, save, ids=ids)
    (data / file).write_text(text)
    project = make_project('seg', data, 'my_project')
    assert project.facts.classes == classes
    found, _ = read_masks(project)
    assert all(np.array_equal(m, layouts.mask_ids(i)) for i, m in found.items())


@pytest.mark.parametrize('ids', [(0, 128, 255), (0, 85, 170)])
def test_levels_of_grey_are_classes(ids, data):
    layouts.write_masks(data, layouts.save_grey, ids=ids, void=False)
    found, _ = read_masks(make_project('seg', data, 'my_project'))
    assert all(np.array_equal(m, layouts.mask_ids(i, void=False)) for i, m in found.items())


def test_ignored_values_are_chosen(data):
    layouts.write_masks(data, layouts.save_grey)
    found, names = read_masks(make_project('seg', data, 'zero', ignored=['0', '255'],
                                           classes=['road', 'car']))
    assert list(names) == ['road', 'car']
    assert all(np.array_equal(m, layouts.mask_ids(i, (255, 0, 1))) for i, m in found.items())
    assert len(make_project('seg', data, 'none', ignored=[]).facts.classes) == 4


def test_colours_of_a_cvat_export(data):
    """SegmentationClass with colours, SegmentationObject beside it, and VOC's lists."""
    layouts.write_masks(data, layouts.save_colours, images='JPEGImages', masks='SegmentationClass')
    layouts.write_masks(data, layouts.save_colours, images='JPEGImages', masks='SegmentationObject')
    (data / 'labelmap.txt').write_text(
        '# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:128,0,0::\ncar:0,128,0::\n')
    lists = data / 'ImageSets' / 'Segmentation'
    lists.mkdir(parents=True)
    (lists / 'train.txt').write_text('0\n1\n2\n3\n4\n5\n')
    (lists / 'val.txt').write_text('6\n7\n99\n')
    project = make_project('seg', data, 'my_project', 'voc')
    found, names = read_masks(project)
    assert set(names) == {'background', 'road', 'car'} and project.facts.counts == (6, 2, 0)
    values = [names.index(n) for n in ('background', 'road', 'car')]
    assert all(np.array_equal(m, layouts.mask_ids(i, values)) for i, m in found.items())
    assert any('8.jpg' in n for n in project.notes)  # in no list
    assert any('99' in n for n in project.notes)  # no image


@pytest.mark.parametrize('images, masks', [
    ('images/{}', 'annotations/{}'), ('{}/images', '{}/masks'), ('{}', '{}annot'),
    ('{}_images', '{}_masks'), ('{}Images', '{}Masks'), ('{}/color', '{}/gt')])
def test_folders_of_masks(images, masks, data):
    for word in ('train', 'val'):
        layouts.write_masks(data, layouts.save_grey, 4, images.format(word), masks.format(word))
    project = make_project('seg', data, 'my_project')
    assert project.facts.counts == (4, 4, 0)


def test_masks_of_cityscapes(data):
    for split in ('train', 'val'):
        folder = data / 'gtFine' / split / 'aachen'
        folder.mkdir(parents=True)
        for i in range(3):
            layouts.write_image(data / 'leftImg8bit' / split / 'aachen' / f'{i}_leftImg8bit.png')
            layouts.save_grey(layouts.mask_ids(i), folder / f'{i}_gtFine_labelIds.png')
            for other in ('instanceIds', 'labelTrainIds', 'color'):
                layouts.save_colours(layouts.mask_ids(i), folder / f'{i}_gtFine_{other}.png')
    project = make_project('seg', data, 'my_project')
    assert project.facts.counts == (3, 3, 0)
    found, _ = read_masks(project)
    assert all(np.array_equal(m, layouts.mask_ids(i)) for i, m in found.items())


def test_roboflow_masks_beside_images(data):
    for split, count in (('train', 4), ('valid', 2)):
        for i in range(count):
            layouts.write_image(data / split / f'{i}_jpg.rf.0a1b.jpg', i)
            layouts.save_grey(layouts.mask_ids(i, void=False),
                              data / split / f'{i}_jpg.rf.0a1b_mask.png')
        (data / split / '_classes.csv').write_text('Pixel Value, Class\n0, sky\n1, a\n2, b\n')
    project = make_project('seg', data, 'my_project')
    assert project.facts.counts == (4, 2, 0) and project.facts.classes == ['sky', 'a', 'b']


def test_split_is_stratified_and_seeded(data):
    layouts.write_folders(data, classes=('common', ), count=40)
    layouts.write_folders(data, classes=('rare', ), count=5)

    def lists(name, **options):
        project = make_project('cls', data, name, **options)
        return [(project.folder / f'{s}.txt').read_text() for s in ('train', 'val')]

    train, val = lists('first')
    assert [val.count('common/'), val.count('rare/')] == [8, 1]
    assert [train.count('common/'), train.count('rare/')] == [32, 4]
    assert lists('second') == [train, val] != lists('third', seed=1)


def test_copies_of_an_image_stay_together(data):
    layouts.write_folders(data, count=10)
    for i in range(10):  # each image of cats a second time, under another name
        image = next(data.glob(f'cat/{i}.*'))
        image.with_name(f'copy{i}{image.suffix}').write_bytes(image.read_bytes())
    project = make_project('cls', data, 'my_project')
    val = (project.folder / 'val.txt').read_text()
    names = {line.split()[0].split('/')[1].split('.')[0] for line in val.splitlines()
             if line.startswith('cat')}
    assert names and all({n, f'copy{n}'} <= names for n in names if not n.startswith('copy'))


@pytest.mark.parametrize('splits', [('train', 'val'), ('Train', 'VALID', 'test'), ('train', )])
def test_class_folders_in_splits(splits, data):
    layouts.write_folders(data, splits)
    project = make_project('cls', data, 'my_project')
    counts = [12] * len(splits) + [0] * (3 - len(splits))
    if splits == ('train', ):
        counts = [10, 2, 0]
    assert list(project.facts.counts) == counts
    some, classes = samples(project, 'val')
    assert list(classes) == ['cat', 'dog']
    assert all(f'/{classes[s["gt_label"]]}/' in s['img_path'] for s in some)


def test_what_lies_beside_the_folders_is_no_split(data):
    layouts.write_folders(data, ('train', 'val'))
    layouts.write_image(data / 'overview.png')
    project = make_project('cls', data, 'my_project')
    assert project.facts.classes == ['cat', 'dog']
    assert any('overview.png' in n for n in project.notes)


def test_names_with_spaces_in_a_list(data):
    layouts.write_voc(data)
    for path in [*data.rglob('0*.jpg'), *data.rglob('0*.xml')]:
        path.rename(path.with_name(f'IMG {path.name}'))
    for split, some in (('train', range(8)), ('val', range(8, 12))):
        path = data / 'ImageSets' / 'Main' / f'{split}.txt'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(''.join(f'IMG {i:03}\n' for i in some))
    assert list(make_project('det', data, 'my_project').facts.counts) == [8, 4, 0]


def test_objects_without_a_polygon(data):
    content = layouts.write_coco(data)
    for entry, shape in zip(content['annotations'], ([[]], [[1, 2, 3, 4]])):
        entry['segmentation'] = shape
    content['annotations'].append(dict(content['annotations'][0], image_id=4711))
    (data / 'annotations' / 'instances_default.json').write_text(json.dumps(content))
    project = make_project('det', data, 'my_project')
    assert not project.facts.masks and any('4711' in n for n in project.notes)
    assert len(read_boxes(project)) == 12


def test_a_class_called_train(data):
    layouts.write_folders(data, classes=('bus', 'train'))
    assert make_project('cls', data, 'my_project').facts.classes == ['bus', 'train']


@pytest.mark.parametrize('lists, counts', [
    (dict(trainval=range(9), test=range(9, 12)), [6, 3, 3]),
    (dict(trainval=range(9), train=range(6), val=range(6, 9)), [6, 3, 0])])
def test_voc_s_list_of_train_and_val(lists, counts, data):
    layouts.write_voc(data)
    folder = data / 'ImageSets' / 'Main'
    folder.mkdir(parents=True)
    for name, some in lists.items():
        (folder / f'{name}.txt').write_text(''.join(f'{i:03}\n' for i in some))
    assert list(make_project('det', data, 'my_project').facts.counts) == counts


def test_the_same_name_in_several_folders(data):
    """YOLO labels of one name belong to the image in the folder of that name."""
    for k, folder in enumerate(('a', 'b')):
        for i in range(6):
            layouts.write_image(data / 'images' / folder / f'{i}.jpg', 6 * k + i)
            label = data / 'labels' / folder / f'{i}.txt'
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(layouts.yolo_line(6 * k + i))
    (data / 'data.yaml').write_text('names: [car, dog, tree]\n')
    project = make_project('det', data, 'my_project')
    for split in ('train', 'val'):
        some, classes = samples(project, split)
        for sample in some:
            folder, name = sample['img_path'].split('/')[-2:]
            x = sample['instances'][0]['bbox'][0]
            assert round(x) == 8 + int(name[0]) + 6 * (folder == 'b')


def test_the_split_of_a_yaml_file(data):
    layouts.write_yolo(data, (('a', 7), ('b', 5)))
    (data / 'data.yaml').write_text('path: .\ntrain: images/a\nval: [images/b]\n'
                                    'names: {0: car, 1: dog, 2: tree}\n')
    project = make_project('det', data, 'my_project')
    assert set(read_boxes(project, ('train', ))) == set('0123456')
    assert set(read_boxes(project, ('val', ))) == {'7', '8', '9', '10', '11'}


def test_a_label_is_not_taken_from_another_folder(data):
    layouts.write_yolo(data, (('a', 6), ('b', 6)))
    (data / 'labels' / 'a' / '0.txt').unlink()
    (data / 'labels' / 'b' / '0.txt').write_text(layouts.yolo_line(1))  # its image is gone
    assert '0.jpg' in notes_of('det', data, 'without a label file')[0]
    assert '0.txt' in notes_of('det', data, 'without an image')[0]


def test_objects_of_several_parts_stay_objects(data):
    """YOLO's polygons become masks, each of its object alone, and Mask R-CNN learns them."""
    layouts.write_yolo(data)
    for path in data.rglob('[0-9]*.txt'):
        path.write_text('0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5\n2 0.6 0.6 0.9 0.6 0.9 0.9\n')
    project = make_project('det', data, 'my_project')
    assert 'mask_rcnn' in project.config.read_text()
    content = json.loads((project.folder / 'train.json').read_text())
    assert {a['iscrowd'] for a in content['annotations']} == {0}
    square = content['annotations'][0]
    assert square['area'] == pytest.approx(0.16 * 80 * 64, rel=0.1)


def test_a_box_beside_polygons_has_no_mask(data):
    layouts.write_yolo(data)
    path = next(data.rglob('[0-9]*.txt'))
    path.write_text('0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5\n\n1 0.5 0.5 0.2 0.2\n')
    project = make_project('det', data, 'my_project')
    assert not project.facts.masks and any(': 1 of 13' in n for n in project.notes)


def test_difficult_boxes_of_voc_do_not_count(data):
    layouts.write_voc(data, more='<difficult>1</difficult>')
    layouts.write_voc(data, count=9)
    project = make_project('det', data, 'my_project')
    crowds = [a['iscrowd'] for s in ('train', 'val') for a in json.loads(
        (project.folder / f'{s}.json').read_text())['annotations']]
    assert sum(crowds) == 3 and len(crowds) == 12


def notes_of(task, data, word):
    notes = make_project(task, data, f'project_{len(list(data.parent.parent.iterdir()))}').notes
    return [n for n in notes if word in n]


def test_what_has_no_partner_is_told(data):
    layouts.write_voc(data)
    layouts.write_image(data / 'JPEGImages' / 'alone.jpg')
    (data / 'Annotations' / 'lost.xml').write_text('<annotation></annotation>')
    layouts.write_image(data / 'phone.png')
    (data / 'photo.heic').touch()
    assert notes_of('det', data, 'alone.jpg') and notes_of('det', data, 'lost.xml')
    assert notes_of('det', data, 'heic')


def test_images_without_objects_are_told(data):
    layouts.write_yolo(data)
    (data / 'labels' / 'train' / '0.txt').write_text('')
    (data / 'labels' / 'train' / '1.txt').unlink()
    told = notes_of('det', data, 'without a label file')
    assert len(told) == 1 and '1 (images/train/1.jpg)' in told[0]
    assert ': 2 (' in notes_of('det', data, 'without a box')[0]


def test_a_class_in_one_split_alone_is_told(data):
    layouts.write_folders(data, ('train', 'val'))
    layouts.write_folders(data, ('val', ), ('bird', ))
    assert 'bird' in notes_of('cls', data, 'no image of train')[0]


def test_turned_images(data):
    """Masks drawn on the stored pixels are turned as the image is shown."""
    layouts.write_masks(data, layouts.save_grey)
    layouts.write_image(data / 'images' / '0.jpg', 0, orientation=6)
    project = make_project('seg', data, 'my_project')
    assert any('EXIF' in n for n in project.notes)
    found, _ = read_masks(project)
    assert np.array_equal(found[0], np.rot90(layouts.mask_ids(0), -1))


def _no_boxes(data):
    layouts.write_folders(data)


def _mixed(data):
    layouts.write_voc(data)
    layouts.write_coco(data)


def _sizes(data):
    layouts.write_masks(data, layouts.save_grey)
    layouts.write_image(data / 'images' / '3.jpg', 0, (60, 60))


def _photos(data):
    for i in range(4):
        layouts.write_image(data / 'images' / f'{i}.jpg', i)
        layouts.write_image(data / 'masks' / f'{i}.png', i)


def _one_value(data):
    layouts.write_masks(data, layouts.save_grey, ids=(1, 1), void=False)


def _smooth(data):
    def save(mask, path):
        mask[:, 30] = (17 * np.arange(layouts.HEIGHT)) % 250
        layouts.save_grey(mask, path)

    layouts.write_masks(data, save, ids=(0, 255), void=False)


def _jpeg(data):
    for i in range(4):
        layouts.write_image(data / 'images' / f'{i}.png', i)
        (data / 'masks').mkdir(exist_ok=True)
        layouts.save_grey(layouts.mask_ids(i), data / 'masks' / f'{i}.jpg')


def _pixels_not_fractions(data):
    layouts.write_yolo(data)
    for path in data.rglob('[0-9]*.txt'):
        path.write_text('0 20 20 10 10\n')


def _unknown_class(data):
    layouts.write_yolo(data)
    (data / 'labels' / 'train' / '0.txt').write_text('3 0.5 0.5 0.1 0.1\n')


def _broken_label(data):
    layouts.write_yolo(data)
    (data / 'labels' / 'train' / '5.txt').write_text('0 0.5 0.5 nan 0.2\n')


def _cut_json(data):
    layouts.write_coco(data, 6, '', 'train', 'train.json')
    (data / 'val.json').write_bytes((data / 'train.json').read_bytes()[:100])


def _no_bndbox(data):
    layouts.write_voc(data)
    (data / 'Annotations' / '004.xml').write_text(
        '<annotation><object><name>car</name></object></annotation>')


def _voc_of_another_size(data):
    layouts.write_voc(data)
    layouts.write_image(data / 'JPEGImages' / '002.jpg', orientation=6)


def _two_readings(data):
    layouts.write_masks(data, layouts.save_grey, ids=(0, 1, 3), void=False)
    (data / 'classes.txt').write_text('sky\nroad\ncar\n')


def _other_size(data):
    content = layouts.write_coco(data)
    content['images'][0].update(width=160, height=128)
    (data / 'annotations' / 'instances_default.json').write_text(json.dumps(content))


def _no_training(data):
    for split in ('val', 'test'):
        layouts.write_voc(data, images=f'{split}/images', xml=f'{split}/xml')


def _one_id(data):
    content = layouts.write_coco(data)
    content['images'][1]['id'] = 0
    (data / 'annotations' / 'instances_default.json').write_text(json.dumps(content))


def _two_kinds_of_splits(data):
    layouts.write_folders(data, ('seg_train/seg_train', 'seg_test/seg_test'))


def _partly_split(data):
    layouts.write_voc(data, images='train/images', xml='train/xml')
    layouts.write_voc(data, 14, images='other/images', xml='other/xml')


@pytest.mark.parametrize('task, write, words', [
    ('det', _no_boxes, ['COCO', 'VOC', 'YOLO', '.jpg']), ('det', _mixed, ['--from', 'coco', 'voc']),
    ('seg', _no_boxes, ['masks/', 'SegmentationClass']), ('seg', _sizes, ['3.png', '60x60']),
    ('seg', _photos, ['values']), ('seg', _one_value, ['--ignore']),
    ('seg', _smooth, ['255', '--ignore']), ('seg', _jpeg, ['JPEG']),
    ('det', _pixels_not_fractions, ['outside']), ('det', _unknown_class, ['3']),
    ('seg', _two_readings, ['classes.txt', '--classes']), ('det', _other_size, ['160x128']),
    ('det', _cut_json, ['val.json']), ('det', _broken_label, ['5.txt', 'nan']),
    ('det', _no_bndbox, ['004.xml', 'bndbox']),
    ('det', _voc_of_another_size, ['002.jpg', '64x80', 'EXIF']),
    ('det', _partly_split, ['other', 'train']), ('det', _no_training, ['training', 'val']),
    ('det', _one_id, ['ids']), ('cls', _two_kinds_of_splits, ['seg_train']),
    ('cls', layouts.write_coco, ['train/']),
    ('cls', lambda data: data.mkdir(parents=True), ['0 images']),
    ('det', lambda data: None, ['nothing at'])])
def test_what_cannot_be_understood_is_one_line(task, write, words, data, capsys):
    write(data)
    with pytest.raises(SystemExit) as ended:
        load_tool('new').main([task, 'data/mine', '--name', 'my_project'])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert len(error.splitlines()) == 1 and all(w in error for w in words), error
    assert 'traceback' not in error
    assert not list(data.parent.parent.glob('my_project*'))


def test_less_memory_means_smaller_batches(data, monkeypatch):
    """The rehearsal says what does not fit."""
    tried, tool = [], load_tool('new')

    def check_run(cfg, splits):
        tried.append(cfg.train_dataloader.batch_size)
        findings = Findings()
        if len(tried) < 3:
            findings.error('rehearsal, training step: out of memory')
        return findings

    monkeypatch.setattr(tool, 'check_run', check_run)
    layouts.write_folders(data, count=80)
    tool.main(['cls', 'data/mine', '--name', 'my_project'])
    assert tried == [32, 16, 8]
    cfg = load_config('my_project.py')
    assert cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 8


def test_nothing_is_overwritten(data, tmp_path):
    layouts.write_folders(data)
    (tmp_path / 'my_project.py').write_text('mine')
    with pytest.raises(FileExistsError, match='my_project.py'):
        make_project('cls', data, 'my_project')
    assert (tmp_path / 'my_project.py').read_text() == 'mine'
    assert not (tmp_path / 'my_project_data').exists()
    with pytest.raises(ValueError, match='--name'):
        make_project('cls', data, '../other')
    with pytest.raises(ValueError, match='--name.*numpy'):
        make_project('cls', data, 'numpy')
    with pytest.raises(ValueError, match='--from'):
        make_project('cls', data, 'other', 'yolo')


def test_an_earlier_project_is_no_data(data, tmp_path, monkeypatch):
    layouts.write_masks(data, layouts.save_grey)
    monkeypatch.chdir(data)
    first = make_project('seg', data, 'first')
    assert make_project('seg', data, 'second').facts.counts == first.facts.counts
