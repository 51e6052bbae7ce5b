"""Checks of image files for missing parts, which decoders often ignore."""
import os
import warnings
from typing import NamedTuple, Optional, Tuple

import cv2
from PIL import Image, UnidentifiedImageError

__all__ = ['IMAGE_SUFFIXES', 'UNREAD_SUFFIXES', 'ImageCheck', 'ends_abruptly', 'inspect_image',
           'lost_part']

#: Suffixes of images, in lower case.
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm')

#: Those of images that are not read; everything else in a folder may be anything.
UNREAD_SUFFIXES = ('.heic', '.heif', '.gif', '.avif', '.jp2', '.npy', '.svg', '.dng', '.dcm')

_EXIF_ORIENTATION = 0x0112


class ImageCheck(NamedTuple):
    """The result of reading an image.

    Attributes:
        problem: Reason why it cannot be used, or None.
        size: Width and height in pixels, as it is shown; None if unknown.
        stored: Those in the file, where its EXIF orientation turns or mirrors it.
    """
    problem: Optional[str]
    size: Optional[Tuple[int, int]] = None
    stored: Optional[Tuple[int, int]] = None


def inspect_image(path: str) -> ImageCheck:
    """Decode an image to its end.

    Pillow does it first, because OpenCV reads half a JPEG and paints the rest grey.
    """
    try:
        if not os.path.isfile(path):
            return ImageCheck('not a file' if os.path.exists(path) else 'no such file')
        if not os.path.getsize(path):
            return ImageCheck('empty file')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # about large images and odd metadata
            with Image.open(path) as image:
                size = stored = image.size
                image.load()
                orientation = image.getexif().get(_EXIF_ORIENTATION)
                if orientation in (5, 6, 7, 8):
                    size = size[::-1]
                return ImageCheck(None, size, stored if orientation in range(2, 9) else None)
    except Image.DecompressionBombError:
        return ImageCheck(None)  # large, as satellite images are; its decoder will see
    except UnidentifiedImageError:
        return _by_opencv(path)  # formats that Pillow does not know
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as e:  # decoders raise what they like, down to Rust's panics
        text = ' '.join(str(e).split()) or type(e).__name__
        return ImageCheck('truncated file' if 'truncated' in text.lower() else
                          f'damaged file: {text}')


def _by_opencv(path: str) -> ImageCheck:
    try:
        image = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        image = None
    if image is None:
        return ImageCheck('not an image')
    return ImageCheck(None, (image.shape[1], image.shape[0]))


def ends_abruptly(path: str) -> bool:
    """Return True if a JPEG or PNG lacks its last bytes; cheap, and False for other formats.

    Some cameras write more after the end, so True is a reason for :func:`inspect_image`.
    """
    with open(path, 'rb') as f:
        head = f.read(4)
        size = f.seek(0, os.SEEK_END)
        f.seek(max(0, size - 32))
        tail = f.read()
    if head[:2] == b'\xff\xd8':
        return b'\xff\xd9' not in tail
    return head == b'\x89PNG' and b'IEND' not in tail


def lost_part(path: str) -> Optional[str]:
    """Return the reason why an image that can be decoded is not whole, or None; cheap."""
    return inspect_image(path).problem if ends_abruptly(path) else None
