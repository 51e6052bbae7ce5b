"""Pictures of what a data loader gives to the model."""
import os.path as osp
import re
from copy import deepcopy
from pathlib import Path
from typing import Any, Dict, List

import mmcv
import numpy as np
from mmengine import Config
from mmengine.registry import DATASETS, VISUALIZERS, init_default_scope
from mmengine.runner import set_random_seed
from mmengine.utils import track_iter_progress

from mmscheme.checks import check_data
from mmscheme.utils.config_query import iter_datasets, scope_of, step_name
from mmscheme.visualization.images import viewable
from mmscheme.visualization.pictures import compose_label_maps

__all__ = ['browse']


def browse(cfg: Config, out_dir: str, split: str = 'train', number: int = 16,
           seed: int = 0) -> List[Path]:
    """Draw samples of a data set after its pipeline, with their labels where they have any.

    Args:
        cfg: A config of mmsegmentation, mmdetection or mmpretrain.
        out_dir: Folder of the pictures.
        split: ``'train'``, ``'val'`` or ``'test'``.
        number: Number of samples, spread evenly over the data set.
        seed: Seed of the random augmentation.

    Returns:
        The files written.

    Raises:
        FileNotFoundError, ValueError: The data are not as the config says, or it has no
            visualizer.
    """
    scope = scope_of(cfg)
    drawers = dict(mmseg=_draw_seg, mmdet=_draw_det, mmpretrain=_draw_cls)
    if scope not in drawers:
        raise ValueError(f'default_scope: expected one of {sorted(drawers)}, found {scope!r}')
    if not (cfg.get(f'{split}_dataloader') or {}).get('dataset'):
        raise ValueError(f'the config has no {split}_dataloader with a data set')
    if not cfg.get('visualizer'):
        raise ValueError('the config has no visualizer')
    init_default_scope(scope)
    check_data(cfg, (split, )).finish()
    cfg = deepcopy(cfg)
    for dataset_cfg in iter_datasets(cfg, (split, )):
        _load_annotations_first(dataset_cfg)
    dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
    visualizer = VISUALIZERS.build(dict(cfg.visualizer, name='browse', vis_backends=None))
    visualizer.dataset_meta = dataset.metainfo
    set_random_seed(seed)
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(number, len(dataset)), dtype=int))
    written = []
    for i in track_iter_progress([int(i) for i in chosen]):
        item = dataset[i]
        sample = item['data_samples']
        name = osp.splitext(osp.basename(sample.get('img_path') or 'sample'))[0]
        path = Path(out_dir) / f'{i:06d}_{name}.png'
        image = viewable(item['inputs'].permute(1, 2, 0).numpy())
        drawers[scope](visualizer, image, sample, str(path))
        written.append(path)
    return written


def _load_annotations_first(dataset: Dict[str, Any]) -> None:
    """Let the labels of a test pipeline, loaded after the resize, follow the image."""
    pipeline = dataset.get('pipeline') or []
    names = [step_name(step) for step in pipeline]
    annotations = [i for i, n in enumerate(names) if re.search(r'Load\w*Annotations$', n)]
    others = [i for i in range(len(names)) if i not in annotations]
    if annotations and others:  # the first of them reads the image, whatever its name
        pipeline.insert(others[0] + 1, pipeline.pop(annotations[0]))


def _draw_seg(visualizer: Any, image: Any, sample: Any, path: str) -> None:
    meta = visualizer.dataset_meta
    maps = []
    if 'gt_sem_seg' in sample:
        maps = [('ground truth', sample.gt_sem_seg.data.squeeze(0).numpy())]
    mmcv.imwrite(compose_label_maps(image, maps, meta['classes'], meta['palette']), path)


def _draw_det(visualizer: Any, image: Any, sample: Any, path: str) -> None:
    sample = sample.numpy()
    if 'gt_instances' in sample:
        truth = sample.gt_instances
        if 'masks' in truth:
            truth.masks = truth.masks.to_ndarray().astype(bool)
        if hasattr(truth.get('bboxes'), 'tensor'):
            truth.bboxes = truth.bboxes.tensor
    visualizer.add_datasample(osp.basename(path), image[..., ::-1], sample, draw_pred=False,
                              out_file=path)


def _draw_cls(visualizer: Any, image: Any, sample: Any, path: str) -> None:
    visualizer.visualize_cls(image[..., ::-1], sample, draw_pred=False, out_file=path,
                             classes=visualizer.dataset_meta.get('classes'))
