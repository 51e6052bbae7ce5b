"""Generated scenes with exact masks: a data set that needs no download.

A scene is sky above a horizon, field and water below it, and objects that overlap
and shrink with distance. Colour alone does not solve it: sky and water share their
tones, rocks and balls differ in texture only, and the same vehicle is a car on the
field and a boat on the water. The same scenes are written in the layouts of ADE20K
and of COCO.
"""
import json
import shutil
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from mmscheme.utils.output_files import replacing

__all__ = ['CLASSES', 'PALETTE', 'THINGS', 'Scene', 'draw_scene', 'write_scenes']

Array = NDArray[Any]


class SceneClass(NamedTuple):
    """A class: its name, its id in ADE20K's masks, its colour (RGB), and if it is countable."""
    name: str
    ade20k_id: int
    colour: Tuple[int, int, int]
    thing: bool


_TABLE = (
    SceneClass('sky', 3, (120, 190, 240), False),
    SceneClass('field', 30, (120, 180, 60), False),
    SceneClass('water', 22, (20, 80, 200), False),
    SceneClass('building', 2, (150, 90, 60), True),
    SceneClass('tree', 5, (10, 110, 30), True),
    SceneClass('rock', 35, (130, 130, 130), True),
    SceneClass('ball', 120, (250, 210, 40), True),
    SceneClass('car', 21, (220, 30, 60), True),
    SceneClass('boat', 77, (200, 60, 200), True),
)
CLASSES: Tuple[str, ...] = tuple(c.name for c in _TABLE)
PALETTE: Tuple[Tuple[int, int, int], ...] = tuple(c.colour for c in _TABLE)
_MIN_OBJECT = 8  # pixels
#: Index in ``CLASSES`` by name, of the countable classes.
THINGS: Dict[str, int] = {c.name: i for i, c in enumerate(_TABLE) if c.thing}
_ID = {name: i + 1 for i, name in enumerate(CLASSES)}  # 0 is unlabelled


class Scene(NamedTuple):
    """One generated scene.

    Attributes:
        image: ``(H, W, 3)`` uint8, BGR.
        labels: ``(H, W)`` uint8: 0 unlabelled, otherwise 1 + index in ``CLASSES``.
        instances: For each visible object its class id and its visible mask
            ``(H, W)`` bool.
    """
    image: Array
    labels: Array
    instances: List[Tuple[int, Array]]


def _smooth_noise(rng: Generator, height: int, width: int, cells: int) -> Array:
    """Draw noise in [-1, 1] that changes over about ``size / cells`` pixels."""
    coarse = rng.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def _colour(rng: Generator, base: Tuple[float, float, float], spread: float) -> Array:
    return np.asarray(base, np.float32) + rng.uniform(-spread, spread, 3).astype(np.float32)


class _Canvas:
    """The scene while it is painted from far to near."""

    def __init__(self, rng: Generator, height: int, width: int) -> None:
        self.rng = rng
        self.height, self.width = height, width
        self.image = np.zeros((height, width, 3), np.float32)
        self.labels = np.zeros((height, width), np.uint8)
        self.owner = np.zeros((height, width), np.int32)
        self.owner_class: List[int] = []
        self.y, self.x = np.mgrid[:height, :width].astype(np.float32)

    def paint(self, mask: Array, colour: Array, label: int, thing: bool) -> None:
        """Lay ``colour``, ``(H, W, 3)`` or ``(3,)``, over the mask."""
        self.image[mask] = np.broadcast_to(colour, self.image.shape)[mask]
        self.labels[mask] = label
        if thing:
            self.owner_class.append(label)
        self.owner[mask] = len(self.owner_class) if thing else 0

    def polygon(self, points: Any) -> Array:
        mask = np.zeros((self.height, self.width), np.uint8)
        cv2.fillPoly(mask, [np.round(np.asarray(points, np.float64)).astype(np.int32)], 1)
        return mask.astype(bool)

    def ellipse(self, cx: float, cy: float, rx: float, ry: float) -> Array:
        return ((self.x - cx) / rx)**2 + ((self.y - cy) / ry)**2 <= 1


def _paint_ground(canvas: _Canvas) -> Tuple[float, Array]:
    """Paint sky, field and water; return the horizon's row and the mask of the water."""
    rng, height, width = canvas.rng, canvas.height, canvas.width
    horizon = rng.uniform(0.3, 0.5) * height
    # One tone for sky and water: what tells them apart is the place and the ripples.
    tone = _colour(rng, (200, 160, 130), 45)
    clouds = _smooth_noise(rng, height, width, 5)[..., None]
    sky = tone + 22 * clouds + 25 * (canvas.y / horizon - 0.5)[..., None]
    canvas.paint(np.ones((height, width), bool), sky, _ID['sky'], False)

    below = canvas.y > horizon + 4 * _smooth_noise(rng, height, width, 6)
    grain = rng.normal(0, 14, (height, width, 1)).astype(np.float32)
    field = _colour(rng, (60, 140, 120), 30) + grain + 18 * _smooth_noise(
        rng, height, width, 7)[..., None]
    canvas.paint(below, field, _ID['field'], False)

    # The shore runs from the horizon to the lower edge, the water left or right of it.
    depth = (canvas.y - horizon) / (height - horizon)
    shore = width * (rng.uniform(0.3, 0.7) + rng.uniform(-0.3, 0.3) * depth) + 6 * _smooth_noise(
        rng, height, width, 6)
    side = canvas.x > shore if rng.random() < 0.5 else canvas.x < shore
    water = below & side if rng.random() < 0.85 else np.zeros_like(below)
    ripples = np.sin(canvas.y * rng.uniform(1.2, 1.9) + 2 * _smooth_noise(rng, height, width, 9))
    canvas.paint(water, tone + 16 * ripples[..., None], _ID['water'], False)
    return horizon, water


def _paint_building(canvas: _Canvas, cx: float, base: float, size: float) -> None:
    rng = canvas.rng
    half, tall = size * rng.uniform(0.35, 0.6), size * rng.uniform(0.9, 1.5)
    wall = _colour(rng, (110, 130, 165), 40)
    windows = ((canvas.x - cx) % (size / 4) > size / 8) & ((canvas.y - base) % (size / 4) >
                                                           size / 8)
    colour = np.where(windows[..., None], wall * 0.45, wall)
    box = canvas.polygon([(cx - half, base - tall), (cx + half, base - tall), (cx + half, base),
                          (cx - half, base)])
    canvas.paint(box, colour, _ID['building'], True)


def _paint_tree(canvas: _Canvas, cx: float, base: float, size: float) -> None:
    rng = canvas.rng
    leaves = np.zeros((canvas.height, canvas.width), bool)
    for _ in range(4):
        leaves |= canvas.ellipse(cx + size * rng.uniform(-.25, .25),
                                 base - size * rng.uniform(0.6, 1.1), size * rng.uniform(.25, .4),
                                 size * rng.uniform(.25, .4))
    trunk = (np.abs(canvas.x - cx) < size * 0.09) & (canvas.y <= base) & (canvas.y >
                                                                          base - 0.6 * size)
    grain = rng.normal(0, 22, (canvas.height, canvas.width, 1)).astype(np.float32)
    colour = np.where(leaves[..., None], _colour(rng, (40, 95, 45), 20) + grain,
                      _colour(rng, (35, 60, 95), 10))
    canvas.paint(leaves | trunk, colour, _ID['tree'], True)


def _paint_round(canvas: _Canvas, name: str, cx: float, base: float, size: float) -> None:
    """Paint a rock (speckled) or a ball (striped): same outline, same two colours."""
    rng = canvas.rng
    radius = size * rng.uniform(0.35, 0.5)
    mask = canvas.ellipse(cx, base - radius, radius * rng.uniform(0.95, 1.2), radius)
    a = _colour(rng, (140, 140, 140), 70)
    b = a * rng.uniform(0.35, 0.5)
    if name == 'ball':
        angle = rng.uniform(0, np.pi)
        wave = np.cos(angle) * (canvas.x - cx) + np.sin(angle) * (canvas.y - base)
        pattern = np.sin(wave * 2 * np.pi / max(4.0, 0.5 * radius)) > 0
    else:
        pattern = rng.random((canvas.height, canvas.width)) > 0.5
    canvas.paint(mask, np.where(pattern[..., None], a, b), _ID[name], True)


def _paint_vehicle(canvas: _Canvas, name: str, cx: float, base: float, size: float) -> None:
    """Paint a body with a cabin; only what it stands on makes it a car or a boat."""
    rng = canvas.rng
    half = size * rng.uniform(0.55, 0.75)
    body = canvas.polygon([(cx - half, base - 0.4 * size), (cx + half, base - 0.4 * size),
                           (cx + 0.75 * half, base), (cx - 0.75 * half, base)])
    cabin = canvas.polygon([(cx - 0.45 * half, base - 0.8 * size),
                            (cx + 0.45 * half, base - 0.8 * size),
                            (cx + 0.55 * half, base - 0.4 * size),
                            (cx - 0.55 * half, base - 0.4 * size)])
    hull = _colour(rng, (90, 60, 190), 60)
    colour = np.where(cabin[..., None] & ~body[..., None], _colour(rng, (225, 225, 225), 25), hull)
    canvas.paint(body | cabin, colour, _ID[name], True)


def _paint_unlabelled(canvas: _Canvas, cx: float, base: float, size: float) -> None:
    """Paint a mast that belongs to no class."""
    mask = (np.abs(canvas.x - cx) < 0.08 * size + 1) & (canvas.y <= base) & (canvas.y >
                                                                            base - 2 * size)
    canvas.paint(mask, _colour(canvas.rng, (30, 30, 30), 20), 0, False)


def draw_scene(rng: Generator, height: int = 128, width: int = 160) -> Scene:
    """Draw one scene of at least 32 pixels a side; ``rng`` is the source of all its randomness."""
    if min(height, width) < 32:
        raise ValueError(f'a scene is at least 32 pixels a side, found {height}x{width}')
    canvas = _Canvas(rng, height, width)
    horizon, water = _paint_ground(canvas)
    places = []
    for _ in range(rng.integers(5, 10)):
        depth = rng.uniform(0.05, 1)  # 0 at the horizon, 1 at the lower edge
        places.append((depth, rng.uniform(0.05, 0.95) * width))
    for depth, cx in sorted(places):
        base = horizon + depth * (height - 1 - horizon)
        size = height * (0.12 + 0.3 * depth) * rng.uniform(0.85, 1.15)
        if rng.random() < 0.04:
            _paint_unlabelled(canvas, cx, base, size)
        elif water[int(base), int(cx)]:
            if rng.random() < 0.8:
                _paint_vehicle(canvas, 'boat', cx, base, size)
            else:
                _paint_round(canvas, 'rock', cx, base, 0.8 * size)
        else:
            kind = rng.choice(5, p=(0.2, 0.18, 0.12, 0.28, 0.22))
            if kind == 0:
                _paint_building(canvas, cx, base, size)
            elif kind == 1:
                _paint_tree(canvas, cx, base, 1.2 * size)
            elif kind in (2, 3):
                _paint_round(canvas, 'rock' if kind == 2 else 'ball', cx, base, size)
            else:
                _paint_vehicle(canvas, 'car', cx, base, size)
    noise = rng.normal(0, 5, canvas.image.shape)
    image = np.clip(canvas.image + noise, 0, 255).astype(np.uint8)
    instances = [(label, canvas.owner == i + 1) for i, label in enumerate(canvas.owner_class)]
    return Scene(image, canvas.labels, [(c, m) for c, m in instances if m.any()])


def _segmentation(mask: Array, box: List[int]) -> Union[List[List[int]], Dict[str, Any]]:
    """Return COCO's form of a mask: a polygon where that is exact, else uncompressed RLE."""
    x, y, w, h = box
    if mask.sum() == w * h:
        return [[x, y, x + w, y, x + w, y + h, x, y + h]]
    flat = mask.flatten(order='F')
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return dict(size=list(mask.shape), counts=[0, *runs] if flat[0] else runs)


def _coco_entries(scene: Scene, image_id: int, first_id: int) -> List[Dict[str, Any]]:
    entries: List[Dict[str, Any]] = []
    for label, mask in scene.instances:
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        x, y = int(cols[0]), int(rows[0])
        box = [x, y, int(cols[-1]) - x + 1, int(rows[-1]) - y + 1]
        entries.append(dict(id=first_id + len(entries), image_id=image_id, category_id=label,
                            iscrowd=0, area=int(mask.sum()), bbox=box,
                            segmentation=_segmentation(mask, box)))
    return entries


def write_scenes(root: Union[str, Path], num_train: int = 320, num_val: int = 80,
                 size: Tuple[int, int] = (128, 160), seed: int = 0, ids: str = 'own') -> Path:
    """Write a data set of scenes, complete or not at all.

    The files are those of ADE20K (``images/{training,validation}``,
    ``annotations/{training,validation}``) and of COCO (``{train,val}2017``,
    ``annotations/instances_{train,val}2017.json``, countable classes only), of the
    same scenes, and of ImageNet: ``objects/{train,val}/<class>``, each object of at least
    8 pixels a side with what is around it. Scene ``i`` of a split depends on ``seed`` and
    ``i`` alone.

    Args:
        root: A folder that does not exist yet.
        num_train, num_val: Scenes a split.
        size: Height and width in pixels.
        seed: Seed of the random numbers.
        ids: Values in the masks, 0 unlabelled: ``'own'`` for 1 + index in ``CLASSES``,
            ``'ade20k'`` for the ids of ADE20K's 150 classes.

    Returns:
        ``root``.

    Raises:
        FileExistsError: ``root`` exists.
        ValueError: Unknown ``ids``.
    """
    root = Path(root)
    if ids not in ('own', 'ade20k'):
        raise ValueError(f"ids: expected 'own' or 'ade20k', found {ids!r}")
    if root.exists():
        raise FileExistsError(f'{root} exists already; remove it first to write new scenes')
    table = np.arange(256, dtype=np.uint8)
    if ids == 'ade20k':
        table[1:len(_TABLE) + 1] = [c.ade20k_id for c in _TABLE]
    with replacing(root) as part:
        for k, (ade, short, count) in enumerate((('training', 'train', num_train),
                                                 ('validation', 'val', num_val))):
            _write_split(part, ade, short, count, size, (seed, k), table)
    return root


def _surroundings(image: Array, box: List[int]) -> Array:
    """Cut out a square around a box, twice its longer side where the image is large enough."""
    x, y, w, h = box
    side = max(w, h)
    left, top = max(0, x + w // 2 - side), max(0, y + h // 2 - side)
    return image[top:y + h // 2 + side, left:x + w // 2 + side]


def _write_split(root: Path, ade: str, short: str, count: int, size: Tuple[int, int],
                 seed: Tuple[int, int], table: Array) -> None:
    images, masks, coco_images = (root / 'images' / ade, root / 'annotations' / ade,
                                  root / f'{short}2017')
    objects = {name: root / 'objects' / short / name for name in THINGS}
    for folder in (images, masks, coco_images, *objects.values()):
        folder.mkdir(parents=True)
    records: List[Dict[str, Any]] = []
    annotations: List[Dict[str, Any]] = []
    for i in range(count):
        scene = draw_scene(np.random.default_rng((*seed, i)), *size)
        name = f'scene_{i:05d}'
        _write_image(images / f'{name}.jpg', scene.image, [cv2.IMWRITE_JPEG_QUALITY, 95])
        _write_image(masks / f'{name}.png', table[scene.labels])
        shutil.copyfile(images / f'{name}.jpg', coco_images / f'{name}.jpg')
        records.append(dict(id=i + 1, file_name=f'{name}.jpg', height=size[0], width=size[1]))
        entries = _coco_entries(scene, i + 1, len(annotations) + 1)
        annotations += entries
        for k, entry in enumerate(entries):
            if min(entry['bbox'][2:]) >= _MIN_OBJECT:
                folder = objects[CLASSES[entry['category_id'] - 1]]
                _write_image(folder / f'{name}_{k}.jpg',
                             _surroundings(scene.image, entry['bbox']),
                             [cv2.IMWRITE_JPEG_QUALITY, 95])
    categories = [dict(id=_ID[name], name=name, supercategory='thing') for name in THINGS]
    with open(root / 'annotations' / f'instances_{short}2017.json', 'w') as f:
        json.dump(dict(info=dict(description='generated scenes'), licenses=[], images=records,
                       annotations=annotations, categories=categories), f)


def _write_image(path: Path, image: Array, params: Optional[List[int]] = None) -> None:
    if not cv2.imwrite(str(path), image, params or []):
        raise OSError(f'could not write {path}')
