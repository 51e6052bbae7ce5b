"""Small data of one's own in the layouts that people have, each with its truth."""
import json

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 80, 64
VOID = 255


def write_image(path, seed=0, size=(WIDTH, HEIGHT), orientation=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


def truth_box(i):
    """Return class and box of image i: name, left, top, width, height."""
    return ('tree', 'car', 'dog')[i % 3], 8 + i, 12, 24, 32


def write_coco(root, count=12, split='', images='images', file='annotations/instances_default.json',
               first_id=0, **more):
    """Write COCO files as CVAT does, or others by their arguments."""
    names = ('dog', 'car', 'tree')
    content = dict(images=[], annotations=[], categories=[
        dict(id=7 + 2 * k, name=n) for k, n in enumerate(names)], **more)
    for i in range(count):
        write_image(root / images / f'{split}{i}.jpg', i)
        name, *box = truth_box(i)
        content['images'].append(dict(id=i, file_name=f'{split}{i}.jpg', width=WIDTH,
                                      height=HEIGHT))
        content['annotations'].append(dict(
            id=first_id + i, image_id=i, category_id=7 + 2 * names.index(name), bbox=box,
            area=box[2] * box[3], segmentation=[]))
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(content))
    return content


def write_roboflow_coco(root):
    for split, count in (('train', 6), ('valid', 3), ('test', 3)):
        content = write_coco(root, count, f'{split}_', split, f'{split}/_annotations.coco.json')
        content['categories'] = [dict(id=0, name='things', supercategory='none'), *(
            dict(c, supercategory='things') for c in content['categories'])]
        (root / split / '_annotations.coco.json').write_text(json.dumps(content))


def write_voc(root, count=12, images='JPEGImages', xml='Annotations', suffix='.jpg', more=''):
    for i in range(count):
        name, x, y, w, h = truth_box(i)
        write_image(root / images / f'{i:03}{suffix}', i)
        path = root / xml / f'{i:03}.xml'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f'<annotation><filename>{i:03}{suffix}</filename><size><width>{WIDTH}</width><height>'
            f'{HEIGHT}</height><depth>3</depth></size><object><name>{name}</name>{more}<bndbox>'
            f'<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax>'
            '</bndbox></object></annotation>')


def yolo_line(i, names=('car', 'dog', 'tree')):
    name, x, y, w, h = truth_box(i)
    return (f'{names.index(name)} {(x + w / 2) / WIDTH} {(y + h / 2) / HEIGHT} {w / WIDTH} '
            f'{h / HEIGHT}\n')


def write_yolo(root, splits=(('train', 8), ('val', 4)), pattern='{kind}/{split}'):
    number = 0
    for split, count in splits:
        for _ in range(count):
            folders = [root / pattern.format(kind=kind, split=split)
                       for kind in ('images', 'labels')]
            write_image(folders[0] / f'{number}.jpg', number)
            folders[1].mkdir(parents=True, exist_ok=True)
            (folders[1] / f'{number}.txt').write_text(yolo_line(number))
            number += 1
    (root / 'data.yaml').write_text('names: [car, dog, tree]\nnc: 3\n')


def write_roboflow_yolo(root):
    write_yolo(root, (('train', 6), ('valid', 3), ('test', 3)), '{split}/{kind}')
    (root / 'data.yaml').write_text(
        'train: ../train/images\nval: ../valid/images\nnc: 3\nnames: [car, dog, tree]\n')


def write_cvat_yolo(root):
    write_yolo(root, (('', 12), ), 'obj_train_data')
    (root / 'data.yaml').unlink()
    (root / 'obj.names').write_text('car\ndog\ntree\n')
    (root / 'obj.data').write_text('classes = 3\nnames = data/obj.names\n')
    (root / 'train.txt').write_text(''.join(f'data/obj_train_data/{i}.jpg\n' for i in range(12)))


def write_folders(root, splits=('', ), classes=('cat', 'dog'), count=6):
    for s, split in enumerate(splits):
        for c, name in enumerate(classes):
            for i in range(count):
                suffix = ('.jpg', '.JPEG', '.png')[i % 3]
                write_image(root / split / name / f'{i}{suffix}', 100 * s + 10 * c + i)


def mask_ids(i, ids=(0, 1, 2), void=True):
    """Return the mask of image i: three fields, with a border that is void."""
    mask = np.full((HEIGHT, WIDTH), ids[0], np.int64)
    mask[:, 30 + i:] = ids[1]
    mask[40:] = ids[-1 if i % 3 else 0]
    if void:
        mask[:, 28 + i:30 + i] = VOID
    return mask


def palette_image(mask, colours=((0, 0, 0), (128, 0, 0), (0, 128, 0))):
    image = Image.fromarray(mask.astype(np.uint8), 'P')
    colours = [*map(list, colours), *[[0, 0, 0]] * (255 - len(colours)), [224, 224, 192]]
    image.putpalette(sum(colours, []))
    return image


def write_masks(root, save, count=9, images='images', masks='masks', suffix='.jpg', **kwargs):
    """Write images and masks; ``save`` writes the mask of ids to a path."""
    for i in range(count):
        write_image(root / images / f'{i}{suffix}', i)
        (root / masks).mkdir(parents=True, exist_ok=True)
        save(mask_ids(i, **kwargs), root / masks / f'{i}.png')


def save_palette(mask, path):
    palette_image(mask).save(path)


def save_grey(mask, path):
    Image.fromarray(mask.astype(np.uint8)).save(path)


def save_three(mask, path):
    Image.fromarray(np.repeat(mask.astype(np.uint8)[..., None], 3, 2)).save(path)


def save_colours(mask, path):
    palette_image(mask).convert('RGB').save(path)


def save_wide(mask, path):
    Image.fromarray(mask.astype(np.uint16)).save(path)
