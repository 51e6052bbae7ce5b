"""Images as a pipeline reads them, and as people can look at them."""
from typing import Any, Dict, List, Sequence

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import Compose
from numpy.typing import NDArray

__all__ = ['ImageReader', 'dataset_steps', 'viewable']


class ImageReader:
    """Read images with the steps of a pipeline, up to the one that gives the image.

    So colours, channels, orientation and type are those that the model sees, also of ``.npy``
    files and of loaders of one's own.

    Args:
        steps: Of a pipeline, as in a config or built; without one that reads, OpenCV does.

    Attributes:
        stock: True if the image is read by mmcv's own ``LoadImageFromFile``.
        turns: True if that applies the EXIF orientation.
    """

    def __init__(self, steps: Sequence[Any]) -> None:
        self._steps = Compose(list(steps)).transforms
        stock = [step for step in self._steps if isinstance(step, LoadImageFromFile)]
        self.stock = bool(stock)
        self.turns = any(step.color_type in ('color', 'grayscale') for step in stock)

    def read(self, sample: Dict[str, Any]) -> NDArray[Any]:
        """Return the image of a sample, ``(H, W)`` or ``(H, W, C)`` of any type.

        Raises:
            ValueError: A step gives nothing.
        """
        data = dict(sample)
        for step in self._steps:
            data = step(data)
            if data is None:
                raise ValueError(f'{sample["img_path"]}: {type(step).__name__} gives nothing')
            if 'img' in data:
                return data['img']
        return mmcv.imread(sample['img_path'])

    def __call__(self, path: Any) -> NDArray[Any]:
        """Return an image file as a picture; see :func:`viewable`."""
        return viewable(self.read(dict(img_path=str(path))))


def dataset_steps(dataset: Any) -> List[Any]:
    """Return the transforms of a data set, of the first one where it is made of several."""
    while not hasattr(dataset, 'pipeline') and (
            hasattr(dataset, 'datasets') or hasattr(dataset, 'dataset')):
        dataset = dataset.datasets[0] if hasattr(dataset, 'datasets') else dataset.dataset
    return list(getattr(getattr(dataset, 'pipeline', None), 'transforms', ()))


def viewable(image: NDArray[Any]) -> NDArray[Any]:
    """Return an image as a picture, ``(H, W, 3)`` uint8.

    Args:
        image: ``(H, W)`` or ``(H, W, C)``. Of four channels or more the first three are shown,
            of fewer than three the first one, in grey. Values that are not those of pixels, as
            reflectances or 16 bits, are stretched from the least to the largest.
    """
    image = np.asarray(image)
    image = image if image.ndim == 3 else image[..., None]
    image = image[..., :3] if image.shape[-1] >= 3 else image[..., :1].repeat(3, -1)
    if image.dtype != np.uint8:
        image = np.nan_to_num(image.astype(np.float32))
        low, high = (image.min(), image.max()) if image.size else (0, 0)
        # Augmentation leaves pixels a little outside of their range.
        if high > 511 or high <= 2:
            image = (image - low) * (255 / max(high - low, 1e-6))
        image = image.clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(image)
