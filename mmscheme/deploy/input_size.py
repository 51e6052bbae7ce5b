"""The size of a graph's input: what a config tests with, and what padding to it changes."""
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, Tuple

import numpy as np
import torch
from mmengine import Config
from mmengine.registry import DATASETS, init_default_scope
from numpy.typing import NDArray
from torch import nn

from mmscheme.analysis.random_batch import find_preprocessor, input_shape, random_batch
from mmscheme.utils.config_query import inference_pipeline, iter_datasets, scope_of, step_name

from .predictor import ExportedPredictor

__all__ = ['describe_padding', 'tested_shape']

_IMAGES = 32


def tested_shape(cfg: Config) -> Tuple[Tuple[int, int], str]:
    """Return height and width of the images that a config tests with, and how they are known.

    Of a segmenter, whose images keep their proportions, the commonest size of up to 32 test
    images after the pipeline, or its window where it slides one; of other models see
    :func:`mmscheme.analysis.random_batch.input_shape`.

    Args:
        cfg: A config of mmsegmentation, mmdetection or mmpretrain.

    Returns:
        Height and width in pixels, with the padding of the data preprocessor, and a sentence,
        which is empty where the config alone says it.

    Raises:
        ValueError: The size depends on the images, and these are not there.
    """
    if scope_of(cfg) != 'mmseg':
        return input_shape(cfg), ''
    settings = cfg.model.get('test_cfg') or {}
    if settings.get('mode') == 'slide':
        return tuple(settings.get('crop_size') or input_shape(cfg)), ''
    padding = find_preprocessor(cfg).get('test_cfg') or {}
    if padding.get('size'):
        return tuple(padding['size']), ''
    sizes = _image_sizes(cfg)
    if sizes:
        (shape, number), = sizes.most_common(1)
        text = f'{number} of {sum(sizes.values())} test images have {shape[0]}x{shape[1]}'
    else:
        shape, text = _resized(cfg), ''
    divisor = padding.get('size_divisor') or 1
    height, width = (-(-side // divisor) * divisor for side in shape)
    return (height, width), text


def _image_sizes(cfg: Config) -> 'Counter[Tuple[int, int]]':
    """Count the sizes of test images after the pipeline; none where there are no files."""
    init_default_scope(scope_of(cfg))
    for dataset in iter_datasets(cfg, ('test', 'val')):
        try:
            images = DATASETS.build(dict(dataset, pipeline=inference_pipeline(cfg)))
        except (AssertionError, OSError):  # as mmsegmentation says that there are none
            continue
        chosen = np.linspace(0, len(images) - 1, min(len(images), _IMAGES)).astype(int)
        sizes: Counter[Tuple[int, int]] = Counter()
        for i in chosen.tolist():
            with suppress(Exception):  # a damaged file says nothing of the others
                sizes[tuple(images[i]['inputs'].shape[-2:])] += 1
        return sizes
    return Counter()


def _resized(cfg: Config) -> Tuple[int, int]:
    """Return the size that a test pipeline gives to all images."""
    for step in reversed(inference_pipeline(cfg)):
        scale = step.get('scale') if step_name(step) == 'Resize' else None
        if scale and not step.get('keep_ratio'):
            width, height = (scale, scale) if isinstance(scale, int) else scale
            return height, width
    raise ValueError('the config tests each image at a size of its own, and there are no test '
                     'images here to take it from; give one (--shape)')


def describe_padding(cfg: Config, model: nn.Module, path: Path, picture: NDArray[Any]) -> str:
    """Compare an exported segmenter with PyTorch on a picture that does not fill the graph.

    The graph sees the padding too: it takes part in norms over the map, pooling and attention.

    Args:
        cfg: The config of the model.
        model: As it was trained.
        path: The file, for one image.
        picture: ``(H, W, C)`` as from the pipeline, smaller than the input of the graph.

    Returns:
        A sentence.
    """
    height, width = picture.shape[:2]
    batch = random_batch(cfg, (height, width), 1)
    batch['inputs'] = [torch.from_numpy(picture).permute(2, 0, 1)]
    with torch.no_grad():
        expected = model.test_step(batch)[0].pred_sem_seg.data
    sample: Any = batch['data_samples'][0].new()
    found = ExportedPredictor(path).predict(batch['inputs'][0], sample).pred_sem_seg.data
    same = float((found == expected).float().mean())
    return (f'an image of {height}x{width} is padded, and the padding takes part in norms and '
            f'attention: {same:.1%} of its labels agree with PyTorch, which does not pad')
