"""Draw label maps."""
from typing import Any, List, Sequence, Tuple

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ['compose_label_maps', 'overlay_labels']

_FONT, _TEXT_HEIGHT, _MIN_HEIGHT = cv2.FONT_HERSHEY_SIMPLEX, 22, 256
_IGNORED = 255


def overlay_labels(image: NDArray[Any], labels: NDArray[Any],
                   palette: Sequence[Sequence[int]]) -> NDArray[Any]:
    """Colour an image by a label map of its size.

    Args:
        image: ``(H, W, 3)`` uint8, BGR.
        labels: ``(H, W)``; 255 is unlabelled and black.
        palette: Colours by label, RGB.

    Returns:
        The picture, BGR.
    """
    picture = cv2.addWeighted(image, 0.25, _colours(palette)[labels], 0.75, 0)
    picture[labels == _IGNORED] = 0
    return picture


def _colours(palette: Sequence[Sequence[int]]) -> NDArray[Any]:
    colours = np.zeros((256, 3), np.uint8)
    colours[:len(palette)] = np.asarray(palette, np.uint8)[:, ::-1]
    return colours


def compose_label_maps(image: NDArray[Any], maps: Sequence[Tuple[str, NDArray[Any]]],
                       classes: Sequence[str], palette: Sequence[Sequence[int]]) -> NDArray[Any]:
    """Draw an image and label maps side by side, over a legend of the classes they show.

    Args:
        image: ``(H, W, 3)`` uint8, BGR.
        maps: Titles and integer label maps ``(H, W)``; 255 is unlabelled and black.
        classes: Names by label.
        palette: Colours by label, RGB.

    Returns:
        The picture, BGR.
    """
    colours = _colours(palette)
    scale = max(1, -(-_MIN_HEIGHT // image.shape[0]))
    size = (image.shape[1] * scale, image.shape[0] * scale)
    panels = [_titled('image', cv2.resize(image, size, interpolation=cv2.INTER_NEAREST))]
    for title, labels in maps:
        panel = overlay_labels(image, labels, palette)
        panels.append(_titled(title, cv2.resize(panel, size, interpolation=cv2.INTER_NEAREST)))
    row = np.hstack(panels)
    shown = sorted({int(i) for _, labels in maps for i in np.unique(labels)})
    legend = _legend([(classes[i], colours[i]) for i in shown if i < len(classes)], row.shape[1])
    return np.vstack([row, legend])


def _titled(title: str, panel: NDArray[Any]) -> NDArray[Any]:
    strip = np.full((_TEXT_HEIGHT, panel.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, title, (6, 16), _FONT, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([strip, panel])


def _legend(entries: List[Tuple[str, NDArray[Any]]], width: int) -> NDArray[Any]:
    rows = [np.full((_TEXT_HEIGHT, width, 3), 255, np.uint8)]
    x = 6
    for name, colour in entries:
        advance = 28 + cv2.getTextSize(name, _FONT, 0.5, 1)[0][0]
        if x + advance > width and x > 6:
            rows.append(np.full_like(rows[0], 255))
            x = 6
        cv2.rectangle(rows[-1], (x, 5), (x + 12, 17), [int(c) for c in colour], -1)
        cv2.putText(rows[-1], name, (x + 17, 16), _FONT, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        x += advance
    return np.vstack(rows)
