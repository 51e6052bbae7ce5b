"""Predictions of an exported model: its file holds all that is needed."""
import itertools
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dataset import Compose
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData, PixelData
from numpy.typing import NDArray
from torch import Tensor

from mmscheme.registry import MODELS

from .detectors import paste_masks
from .graphs import to_labels
from .runtime import DIVISOR, load_exported, to_inputs

__all__ = ['ExportedModel', 'ExportedPredictor']


class ExportedPredictor:
    """A model from ``tools/deploy/export.py`` that predicts as its checkpoint would.

    Args:
        path: The file.
        runtime: See :func:`mmscheme.deploy.runtime.load_exported`.

    Raises:
        FileNotFoundError, ImportError, ValueError: See
            :func:`mmscheme.deploy.runtime.load_exported`; the file holds no whole model.
    """

    def __init__(self, path: Union[str, Path], runtime: str = 'onnxruntime') -> None:
        self.exported = load_exported(path, runtime)
        self.meta = meta = self.exported.meta
        self.scope: str = meta['scope']
        if meta['task'] == 'features':
            raise ValueError(f'{path}: only a backbone and neck, without predictions to draw')
        if meta['batch'] != 1:
            raise ValueError(f'{path}: takes {meta["batch"]} images at once, expected a file '
                             'exported for one')
        init_default_scope(self.scope)
        self.pipeline = Compose(_with_tuples(meta['pipeline']))

    def __call__(self, image_path: Union[str, Path], score_threshold: Optional[float] = None
                 ) -> Any:
        """Predict for one image file.

        Args:
            image_path: The file.
            score_threshold: Lowest score of a detection; the config's by default.

        Returns:
            A data sample of the framework, at the size of the image.

        Raises:
            ValueError: The pipeline makes images that the graph does not take.
        """
        data = self.pipeline(dict(img_path=str(image_path), img_id=0))
        return self.predict(data['inputs'], data['data_samples'], score_threshold)

    def prepare(self, inputs: Tensor, score_threshold: Optional[float] = None
                ) -> Tuple[Dict[str, NDArray[Any]], Tuple[int, int]]:
        """Return the inputs of the graph for an image of the pipeline, and the picture's size.

        A graph for the windows of a segmenter gets the upper left one.

        Args:
            inputs: ``(C, H, W)``; BGR where there are three channels.
            score_threshold: Lowest score of a detection; the config's by default.

        Raises:
            ValueError: The graph takes no such image.
        """
        if self.meta.get('stride'):
            inputs = inputs[:, :self.meta['shape'][0], :self.meta['shape'][1]]
        dtype = self.meta.get('dtype', 'uint8')
        if dtype == 'uint8' and inputs.dtype != torch.uint8:
            raise ValueError(f'the pipeline gives {inputs.dtype}, the exported model takes uint8')
        rgb = inputs.numpy().astype(dtype).transpose(1, 2, 0)
        rgb = rgb[..., ::-1] if rgb.shape[-1] == 3 else rgb
        if self.scope != 'mmpretrain':
            rgb, size = self._fit(rgb)
        elif self.meta['dynamic'] or list(rgb.shape[:2]) == self.meta['shape']:
            size = rgb.shape[0], rgb.shape[1]
        else:
            raise ValueError(f'the pipeline gives images of {rgb.shape[0]}x{rgb.shape[1]}, '
                             f'the exported model takes {self.meta["shape"]}')
        threshold = self.meta['score_threshold'] if score_threshold is None else score_threshold
        batch = np.ascontiguousarray(rgb.transpose(2, 0, 1)[None])
        return to_inputs(batch, self.meta, list(size), threshold), size

    def predict(self, inputs: Tensor, sample: Any, score_threshold: Optional[float] = None) -> Any:
        """Fill the data sample of an image of the pipeline with what is found in it."""
        if self.meta.get('stride'):
            found, size = self._slide(inputs)
        else:
            feeds, size = self.prepare(inputs, score_threshold)
            found = self.exported.run(feeds)
        if self.scope == 'mmpretrain':
            scores = torch.from_numpy(found['scores'][0])
            return sample.set_pred_score(scores).set_pred_label(scores.argmax())
        fill = self._segment if self.scope == 'mmseg' else self._detect
        return fill(sample, found, size)

    def _fit(self, image: NDArray[Any]) -> Tuple[NDArray[Any], Tuple[int, int]]:
        """Shrink an image that is too large for the graph, and pad it to the graph's size."""
        height, width = image.shape[:2]
        if self.meta['dynamic']:
            rows, columns = (-(-side // DIVISOR) * DIVISOR for side in (height, width))
        else:
            rows, columns = self.meta['shape']
            ratio = min(rows / height, columns / width)
            if ratio < 1:
                height, width = int(height * ratio + 0.5), int(width * ratio + 0.5)
                image = cv2.resize(np.ascontiguousarray(image), (width, height)).reshape(
                    height, width, -1)
        padded = np.empty((rows, columns, image.shape[-1]), image.dtype)
        padded[:] = self.meta['fill']
        padded[:height, :width] = image
        return padded, (height, width)

    def _slide(self, inputs: Tensor) -> Tuple[Dict[str, NDArray[Any]], Tuple[int, int]]:
        """Run the graph on mmseg's sliding windows; return the mean logits and the image's size."""
        size, window = tuple(inputs.shape[1:]), self.meta['shape']
        starts = [_window_starts(*sides) for sides in zip(size, window, self.meta['stride'])]
        sums, counts = np.zeros(0), np.zeros((1, 1, *size), np.float32)
        for top, left in itertools.product(*starts):
            feeds, (height, width) = self.prepare(inputs[:, top:, left:])
            logits = self.exported.run(feeds)['logits'][:, :, :height, :width]
            sums = sums if sums.size else np.zeros((*logits.shape[:2], *size), np.float32)
            part = (..., slice(top, top + height), slice(left, left + width))
            sums[part] += logits
            counts[part] += 1
        return dict(logits=sums / counts), (size[0], size[1])

    def _segment(self, sample: Any, found: Dict[str, NDArray[Any]], size: Tuple[int, int]) -> Any:
        logits = torch.from_numpy(found['logits'][:, :, :size[0], :size[1]])
        logits = F.interpolate(logits, tuple(sample.ori_shape[:2]), mode='bilinear',
                               align_corners=self.meta['align_corners'])
        sample.pred_sem_seg = PixelData(data=to_labels(logits, self.meta['threshold']))
        return sample

    def _detect(self, sample: Any, found: Dict[str, NDArray[Any]], size: Tuple[int, int]) -> Any:
        kept = found['labels'] >= 0
        scale = np.asarray([sample.ori_shape[1] / size[1], sample.ori_shape[0] / size[0]] * 2,
                           np.float32)
        sample.pred_instances = instances = InstanceData(
            bboxes=torch.from_numpy(found['boxes'][kept] * scale),
            scores=torch.from_numpy(found['scores'][kept]),
            labels=torch.from_numpy(found['labels'][kept]))
        if 'masks' in found:
            instances.masks = paste_masks(torch.from_numpy(found['masks']), instances.bboxes,
                                          sample.ori_shape[:2], self.meta['mask_threshold'])
        return sample


@MODELS.register_module()
class ExportedModel(BaseModel):
    """An exported file in the place of a network, for mmengine's loop of a test.

    Args:
        path, runtime: See :class:`ExportedPredictor`.
        data_preprocessor: Not used, because it is in the file.

    Attributes:
        predictor: What runs the file.
    """

    def __init__(self, path: str, runtime: str = 'onnxruntime', data_preprocessor: Any = None
                 ) -> None:
        super().__init__()
        self.predictor = ExportedPredictor(path, runtime)

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Refuse to train.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError('an exported file predicts, it is not trained')

    def test_step(self, data: Any) -> List[Any]:
        """Return the data samples of a batch, filled with what the file finds."""
        return [self.predictor.predict(*pair)
                for pair in zip(data['inputs'], data['data_samples'])]

    def __deepcopy__(self, memo: Any) -> 'ExportedModel':
        """Return the model itself, which has no weights: a runtime cannot be copied."""
        return self


def _window_starts(length: int, window: int, stride: int) -> List[int]:
    """Return where the windows along a side begin; the last ends with the side."""
    last = max(length - window, 0)
    return [min(i * stride, last) for i in range(-(-last // stride) + 1)]


def _with_tuples(value: Any) -> Any:
    """Turn lists of numbers into tuples, which transforms insist on and JSON has not."""
    if isinstance(value, dict):
        return {k: _with_tuples(v) for k, v in value.items()}
    if isinstance(value, list):
        numbers = value and all(isinstance(v, (int, float)) for v in value)
        return tuple(value) if numbers else [_with_tuples(v) for v in value]
    return value
