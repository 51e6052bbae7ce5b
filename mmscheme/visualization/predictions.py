"""Draw predictions of every framework."""
from functools import partial
from typing import Any, Callable, Dict, Optional

import numpy as np
from mmengine.registry import VISUALIZERS
from numpy.typing import NDArray

from .images import viewable

__all__ = ['draw_prediction', 'make_drawer', 'make_visualizer']


def make_visualizer(settings: Optional[Dict[str, Any]], meta: Dict[str, Any], scope: str) -> Any:
    """Build a visualizer of the task's framework that stores nothing.

    Args:
        settings: ``visualizer`` of a config.
        meta: Classes and palette; colours are random where there is none.
        scope: The framework; initialised already.

    Returns:
        The visualizer.
    """
    types = dict(mmseg='SegLocalVisualizer', mmdet='DetLocalVisualizer',
                 mmpretrain='UniversalVisualizer')
    if scope not in types:
        raise ValueError(f'default_scope: expected one of {sorted(types)}, found {scope!r}')
    if meta.get('classes') is None:
        raise ValueError('the names of the classes are neither in the model nor in the config')
    visualizer = VISUALIZERS.build(dict(settings or dict(type=types[scope]), name='predict',
                                        vis_backends=None))
    palette = meta.get('palette')
    if palette is None and scope == 'mmseg':
        rng = np.random.default_rng(0)
        palette = rng.integers(0, 256, (len(meta['classes']), 3)).tolist()
    visualizer.dataset_meta = dict(classes=tuple(meta['classes']),
                                   palette='random' if palette is None else palette if
                                   isinstance(palette, str) else [tuple(c) for c in palette])
    return visualizer


def draw_prediction(visualizer: Any, image: NDArray[Any], sample: Any, scope: str,
                    score_thr: float = 0.3, opacity: float = 0.6) -> NDArray[Any]:
    """Draw a prediction into an image.

    Args:
        visualizer: What :func:`make_visualizer` returned.
        image: ``(H, W, 3)`` uint8, BGR.
        sample: The prediction, at the size of the image.
        scope: The framework.
        score_thr: Lowest score of a box that is drawn.
        opacity: Opacity of the colours of a segmentation, in [0, 1].

    Returns:
        The picture, BGR.
    """
    rgb = np.ascontiguousarray(viewable(image)[..., ::-1])
    sample = sample.cpu()
    if scope == 'mmseg':
        visualizer.alpha = opacity
        visualizer.add_datasample('prediction', rgb, sample, draw_gt=False)
    elif scope == 'mmdet':
        visualizer.add_datasample('prediction', rgb, sample, draw_gt=False,
                                  pred_score_thr=score_thr)
    else:
        visualizer.visualize_cls(rgb, sample, draw_gt=False,
                                 classes=visualizer.dataset_meta['classes'])
    return np.ascontiguousarray(visualizer.get_image()[..., ::-1])


def make_drawer(meta: Dict[str, Any], scope: str, score_thr: float = 0.3, opacity: float = 0.6
                ) -> Callable[[NDArray[Any], Any], NDArray[Any]]:
    """Build a function from an image and a prediction to a picture.

    Args:
        meta: Of the model: ``visualizer`` of its config, classes and palette.
        scope, score_thr, opacity: See :func:`draw_prediction`.
    """
    return partial(draw_prediction, make_visualizer(meta.get('visualizer'), meta, scope),
                   scope=scope, score_thr=score_thr, opacity=opacity)
