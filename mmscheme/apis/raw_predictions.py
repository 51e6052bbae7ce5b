"""Predictions as data, in files that other programs read: COCO results, label maps, scores."""
import json
import os.path as osp
from pathlib import Path, PurePath
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Union

import cv2
import numpy as np
from mmengine import Config

from mmscheme.utils.config_query import iter_datasets
from mmscheme.utils.image_jobs import Job
from mmscheme.utils.output_files import replacing

__all__ = ['Numbers', 'RawPredictions', 'config_numbers', 'number_from_one', 'read_numbers']


class Numbers(NamedTuple):
    """The ids that COCO's format has in the place of names.

    Attributes:
        images: Of the images, in the order of the jobs.
        categories: Of the classes.
        source: Where they are from, for the user.
    """
    images: Sequence[Any]
    categories: Sequence[Any]
    source: str


def number_from_one(sources: Sequence[Path], classes: Sequence[str]) -> Numbers:
    """Number images and classes in their order, as where no annotations say their ids."""
    return Numbers(range(1, len(sources) + 1), range(1, len(classes) + 1),
                   'image_id counts the inputs and category_id the classes, from 1; --ann-file '
                   'FILE takes the ids of annotations')


def read_numbers(ann_file: Union[str, Path], classes: Sequence[str], sources: Sequence[Path],
                 folder: str = '') -> Numbers:
    """Take the ids of images and classes from annotations in COCO's format.

    Args:
        ann_file: Their file.
        classes: Names of the classes, in the order of the model's outputs.
        sources: Image files; each is the one of the annotations whose ``file_name`` its path
            ends with.
        folder: Folder that the names are in, where it is known.

    Raises:
        OSError, ValueError: The file cannot be read, or has other classes or not all of the
            images.
    """
    try:
        content = json.loads(Path(ann_file).read_text(encoding='utf-8'))
        images = {PurePath(osp.abspath(osp.join(folder, i['file_name'])) if folder
                           else osp.normpath(i['file_name'])).parts: i['id']
                  for i in content['images']}
        names = [c['name'] for c in content['categories'] if c['name'] in classes]
        categories = [c['id'] for c in content['categories'] if c['name'] in classes]
    except (ValueError, KeyError, TypeError) as e:
        raise ValueError(f"{ann_file}: expected COCO's format with images and categories "
                         f'({type(e).__name__}: {e})') from None
    if names != list(classes):
        raise ValueError(f'{ann_file}: expected the categories {list(classes)} in this order, '
                         f'found {names}')
    found: Dict[Any, Path] = {}
    for source in sources:
        parts = Path(osp.abspath(source)).parts
        number = next((images[parts[i:]] for i in range(len(parts)) if parts[i:] in images), None)
        if number is None:
            raise ValueError(f'{ann_file}: expected all inputs among its images, found none '
                             f'that is {source}')
        if number in found:
            raise ValueError(f'{source} and {found[number]} are both image {number} of {ann_file}')
        found[number] = source
    return Numbers(list(found), categories, f'ids are those of {ann_file}')


def config_numbers(cfg: Config, classes: Sequence[str], sources: Sequence[Path]
                   ) -> Optional[Numbers]:
    """Take the ids from a config's test data; return None if these have not all of the images."""
    for dataset in iter_datasets(cfg, ('test', )):
        root = dataset.get('data_root') or ''
        ann_file = osp.join(root, dataset.get('ann_file') or '')
        folder = osp.join(root, (dataset.get('data_prefix') or {}).get('img') or '')
        if osp.isfile(ann_file):
            try:
                return read_numbers(ann_file, classes, sources, folder)
            except (OSError, ValueError):
                continue
    return None


class RawPredictions:
    """Write what a model finds as data.

    - Detectors: a JSON file of the entries that COCO's results have: ``image_id``, ``bbox`` (x,
      y, width, height in pixels), ``score`` and ``category_id``, ``segmentation`` (a compressed
      RLE) where the model predicts masks, and besides ``file_name``.
    - Classifiers: a JSON file of ``classes`` and ``images``, of these ``file_name``, ``labels``
      (indices in ``classes``) and ``scores`` (in the order of ``classes``).
    - Segmenters: a label map for each image, a PNG of one channel whose pixels are the ids that
      the classes have in the masks of the data set; of 16 bits where these are above 255.

    Args:
        scope: The framework of the model.
        meta: With ``classes``, and of segmenters ``label_ids``, see
            :func:`mmscheme.models.loading.label_ids`.
        jobs: The images, with the files of their masks.
        json_file: File to write, or None for masks.
        ann_file: Annotations whose ids a detector's file has; by default those of the config's
            test data, if these have all of the images, or else numbers from 1.
        cfg: The config.

    Attributes:
        numbers: The ids of a detector's images and classes, or None.

    Raises:
        ValueError: The task has no such file, or the classes have no names.
    """

    def __init__(self, scope: str, meta: Dict[str, Any], jobs: Sequence[Job],
                 json_file: Optional[str], ann_file: Optional[str] = None,
                 cfg: Optional[Config] = None) -> None:
        if meta.get('classes') is None:
            raise ValueError('the names of the classes are neither in the model nor in the config')
        if json_file and not json_file.endswith('.json'):
            raise ValueError(f'--json: expected a file *.json to write, found {json_file}')
        if scope == 'mmseg' and json_file:
            raise ValueError('--json: expected a detector or classifier; a segmenter has --masks')
        if scope != 'mmseg' and any(job.mask for job in jobs):
            raise ValueError('--masks: expected a segmenter; --json has the masks of instances')
        if scope != 'mmdet' and ann_file:
            raise ValueError('--ann-file: expected a detector, whose results have ids')
        for job in jobs:
            if job.video:
                raise ValueError(f'{job.source}: expected an image; videos become pictures alone')
        self.scope, self.meta, self.json_file = scope, meta, json_file
        self.numbers: Optional[Numbers] = None
        if scope == 'mmdet':
            names, files = list(meta['classes']), [job.source for job in jobs]
            known = read_numbers(ann_file, names, files) if ann_file else (
                config_numbers(cfg, names, files) if cfg else None)
            self.numbers = known or number_from_one(files, names)
        self._places = {job.source: i for i, job in enumerate(jobs)}
        self._entries: List[Dict[str, Any]] = []

    def add(self, job: Job, sample: Any) -> None:
        """Add what was found in an image, at the size of its file."""
        sample = sample.cpu()
        if self.scope == 'mmseg':
            self._write_mask(job, sample)
        elif self.scope == 'mmdet':
            self._add_boxes(job, sample.pred_instances)
        else:
            self._entries.append(dict(file_name=str(job.source), labels=sample.pred_label.tolist(),
                                      scores=sample.pred_score.tolist()))

    def _write_mask(self, job: Job, sample: Any) -> None:
        ids = np.asarray(self.meta['label_ids'])
        labels = ids[sample.pred_sem_seg.data[0].long().numpy()]
        with replacing(str(job.mask)) as part:
            cv2.imwrite(str(part), labels.astype(np.uint8 if ids.max() < 256 else np.uint16))

    def _add_boxes(self, job: Job, found: Any) -> None:
        assert self.numbers is not None
        place = self._places[job.source]
        masks = found.masks.numpy() if 'masks' in found else None
        for i, (box, score, label) in enumerate(zip(
                found.bboxes.tolist(), found.scores.tolist(), found.labels.tolist())):
            x, y, right, bottom = box
            entry = dict(image_id=self.numbers.images[place], bbox=[x, y, right - x, bottom - y],
                         score=score, category_id=self.numbers.categories[label],
                         file_name=str(job.source))
            if masks is not None:
                entry['segmentation'] = _encode(masks[i])
            self._entries.append(entry)

    def finish(self) -> None:
        """Write the JSON file."""
        if self.json_file is None:
            return
        content = self._entries if self.scope == 'mmdet' else dict(
            classes=list(self.meta['classes']), images=self._entries)
        with replacing(self.json_file) as part:
            part.write_text(json.dumps(content), encoding='utf-8')


def _encode(mask: Any) -> Dict[str, Any]:
    from pycocotools import mask as coco
    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return dict(size=list(code['size']), counts=code['counts'].decode())
