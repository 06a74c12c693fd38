"""Images with their maps and reconstructions for drawing, shrunk if they are large.

A few images are read and explained at a time, so that large ones do not fill the memory.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from anomaly_tf.data.image_set import ImageSet
from anomaly_tf.data.roi import Roi
from anomaly_tf.deploy.detector import Detector
from anomaly_tf.deploy.regions import views


class Explained(NamedTuple):
    """Images and what a detector explains of them.

    Attributes:
        images: uint8 `(N, H, W, C)`.
        maps: float32 `(N, H, W)`.
        rebuilt: Reconstructions, uint8 `(N, H, W, C)`; None if the detector has none.
    """

    images: np.ndarray
    maps: np.ndarray
    rebuilt: np.ndarray | None


def explained(
    detector: Detector, part: ImageSet, longest: int, roi: Roi | None = None
) -> Explained:
    """Explains images, and shrinks them with their maps to at most `longest` pixels a side.

    Args:
        detector: A detector with maps.
        part: The images.
        longest: Longest side of what is returned.
        roi: The regions of the images that count; None: everything.
    """
    size = shrunk_size(part.images.shape[1:], longest)
    count, channels = len(part), part.images.shape[-1]
    shown = Explained(
        np.empty((count, *size, channels), np.uint8),
        np.empty((count, *size), np.float32),
        np.empty((count, *size, channels), np.uint8) if detector.reconstructs else None,
    )
    start = 0
    for view, images in views(detector, part, roi):
        end = start + len(images)
        maps, rebuilt = view.explain_and_reconstruct(images)
        shown.images[start:end], shown.maps[start:end] = shrunk(images, size), shrunk(maps, size)
        if shown.rebuilt is not None and rebuilt is not None:
            shown.rebuilt[start:end] = shrunk(rebuilt, size)
        start = end
    return shown


def shrunk_maps(
    detector: Detector, part: ImageSet, size: tuple[int, int], roi: Roi | None = None
) -> np.ndarray:
    """Maps of images and their regions, float32 `(N, *size)`; see `shrunk`."""
    maps = np.empty((len(part), *size), np.float32)
    start = 0
    for view, images in views(detector, part, roi):
        maps[start : start + len(images)] = shrunk(view.explain(images), size)
        start += len(images)
    return maps


def shrunk_size(image_shape: tuple[int, ...], longest: int) -> tuple[int, int]:
    """Height and width of images `(H, W, ...)` with at most `longest` pixels a side.

    >>> shrunk_size((3000, 4000, 3), 1000), shrunk_size((28, 28, 1), 1000)
    ((750, 1000), (28, 28))
    """
    height, width = image_shape[:2]
    factor = max(1.0, max(height, width) / longest)
    return max(1, round(height / factor)), max(1, round(width / factor))


def shrunk(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Images or maps `(N, H, W, ...)` with height and width `size`, each pixel a mean."""
    if values.shape[1:3] == size:
        return values
    height, width = size
    one = values[..., 0] if values.ndim == 4 and values.shape[-1] == 1 else values
    box = Image.Resampling.BOX
    small = [np.asarray(Image.fromarray(value).resize((width, height), box)) for value in one]
    return np.array(small, values.dtype).reshape(len(values), *size, *values.shape[3:])
